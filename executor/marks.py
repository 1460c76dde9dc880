"""Which phase a training step is in, learned from hooks on the last decoder layer (phases.py has the phases)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vramplan.executor.phases import PhaseMeter
from vramplan.planner.memory.budget import PhaseName


class Marks:
    """Turns a model's forward and backward passes into marks, by hooks on its last decoder layer.

    ``listener`` hears each phase as it begins; ``graph`` is given the last layer's output of every training forward
    pass until it is set to None.
    """

    def __init__(self, meter: PhaseMeter, listener: Callable[[PhaseName], None] = lambda phase: None) -> None:
        self.meter = meter
        self.listener = listener
        self.phase: PhaseName | None = None
        self.graph: Callable[[Any], None] | None = None

    @contextmanager
    def outside_a_step(self, phase: PhaseName) -> Iterator[None]:
        """The run is in a phase that no training step has, until the block ends."""
        self.enter(phase)
        self.meter.begin_outside(phase)
        try:
            yield
        finally:
            self.meter.end_outside()
            self.phase = None

    def enter(self, phase: PhaseName) -> None:
        """The run is in this phase from now on."""
        if phase != self.phase:
            self.phase = phase
            self.meter.mark(phase)
            self.listener(phase)

    def watch(self, model: Any) -> None:
        """Hook the last decoder layer of a model (PEFT-wrapped or not)."""
        layers = decoder_layers(model)
        if layers is not None:
            layers[-1].register_forward_hook(self._last_layer_done)

    def _last_layer_done(self, module: Any, args: Any, output: Any) -> None:
        if self.phase != "forward":  # gradient checkpointing runs the layer again in the backward pass
            return
        self.enter("loss")
        hidden = output[0] if isinstance(output, tuple | list) else output
        if hidden.requires_grad:
            if self.graph is not None:
                self.graph(hidden)
            hidden.register_hook(lambda gradient: self.enter("backward"))


def decoder_layers(model: Any) -> Any | None:
    """The module list that holds the last layers a step runs through: the decoder's, or an encoder's where there is no
    other; found by its length. None where there is none."""
    import torch

    config = model.config.get_text_config()
    decoder = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None)
    expected = decoder if config.is_encoder_decoder else getattr(config, "num_hidden_layers", None)
    stacks = [each for each in model.modules() if isinstance(each, torch.nn.ModuleList) and len(each) == expected]
    return stacks[-1 if config.is_encoder_decoder else 0] if stacks else None
