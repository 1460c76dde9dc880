"""A memory program with what DeepSpeed's stage 3 gathers and reduces put in where it does it.

    forward    a module's parameters are whole while it runs; those of few elements always are
    recomputed the same, but a checkpointed layer keeps all that it recomputes with: what trains until its backward, for
               the tensors that the recomputation saves are views of it (torch/utils/checkpoint.py,
               _recomputation_hook); what is frozen until the first module is through its backward
               (update_recompute_parameters). The layer's last module comes first, with its backward
    backward   what trains is gathered again beside that, until its gradients are reduced; both go then. What is frozen
               is gathered alone: the largest stands for each
    frozen     a linear keeps its input for the backward all the same (zero/linear.py, LinearFunctionForZeroStage3)
    gradients  through a bucket that lasts, as in zero_step.py; a gradient larger than it waits outside for the next

Source: deepspeed/runtime/zero/parameter_offload.py (setup_zero_stage3_hooks), partitioned_param_coordinator.py
(fetch_sub_module, release_sub_module), stage3.py (reduce_independent_p_g_buckets_and_remove_grads,
__avg_scatter_grads), ../comm/coalesced_collectives.py (reduce_scatter_coalesced), DeepSpeed 0.19.8, as
planner/deepspeed.py configures it. trl's loss takes the head's weight outside its module, so DeepSpeed makes it the
whole model's (register_external_parameter): it is whole from the forward's beginning to the backward's end.
"""

from dataclasses import dataclass

from vramplan.planner.memory.replay import Replay
from vramplan.planner.memory.rewrite import Name, Rewriter
from vramplan.planner.memory.zero_modules import HEAD, Modules, module_of
from vramplan.planner.programs.program import Accumulate, Alloc, Entry

LABEL = "DeepSpeed|parameters|whole"
ALONE = "(one)"
"""Stands for the frozen modules of a layer, one after the other."""


@dataclass(frozen=True)
class Buckets:
    """Sizes of what is reduced."""

    world: int
    element_bytes: int
    elements: int
    persistent: int
    """A tensor of no more elements is always whole."""


def zero3_replay(replay: Replay, modules: Modules, buckets: Buckets, *, standard_loss: bool) -> Replay:
    """The micro step of one rank.

    Args:
        standard_loss: the output head is called; else TRL's loss takes its weight.
    """
    return _Writer(replay, modules, buckets, standard_loss).written()


class _Writer(Rewriter):
    """Writes the program anew."""

    def __init__(self, replay: Replay, modules: Modules, buckets: Buckets, standard_loss: bool) -> None:
        super().__init__(replay)
        self.modules, self.buckets, self.standard_loss = modules, buckets, standard_loss
        self.open: tuple[str, list[Name]] | None = None
        """The module that runs forward, and its parameters."""
        self.done: set[str] = set()
        """Modules that have run in this stretch."""
        self.kept: dict[str, list[Name]] = {}
        """By module: what a recomputation keeps, in the layer whose backward it is."""
        self.again: list[Name] = []
        """Gathered for the backward of the module whose gradient comes next."""
        self.waiting: list[int] = []
        """Elements of the gradients in the bucket, or too large for it."""
        self.apart: list[Name] = []
        self.head: list[Name] = []
        """Of trl's loss."""
        self.input: Name | None = None
        """Of a frozen head."""
        self._met: dict[int | None, list[str]] = {}
        self.regathers = self._regathers()
        self.head_at = self.logits_gradient(set()) if standard_loss and not modules.trains_base else None

    # -------------------------------------------------------------- the step
    def before(self, segment: str, layer: int | None) -> None:
        self.done = set()
        if segment == "forward.embed" and not self.standard_loss:
            self.head = self._gather(HEAD, None)
        if segment == "backward.layer":
            recomputed = self._recomputed(layer)
            module = recomputed[-1] if recomputed else self.modules.largest_of(layer)
            if module is not None:
                self.kept[module] = self._gather(module, layer)
        if segment == "backward.embed" and self.modules.trains_base:
            self.again = self._gather("embed_tokens", None)

    def after(self, segment: str, layer: int | None) -> None:
        self._close()
        if segment in ("backward.layer", "backward.head"):
            for names in self.kept.values():
                self._free_all(names)
            self.kept = {}
        if segment == "backward.head" and self.input is not None:
            self.free(self.input)
            self.input = None

    def entry(self, number: int, index: int, entry: Entry) -> None:
        segment, layer = self.place
        if (number, index) == self.head_at:
            self.kept[HEAD] = self._gather(HEAD, None)
        if (number, index) in self.regathers:
            self.again = [self._whole(self.regathers[number, index])]
        if not isinstance(entry, Alloc):
            return
        module = module_of(self.replay.program.labels[entry.label])
        if segment.startswith("forward"):
            self._open(module, layer)
        elif segment == "backward.layer" and module not in self.kept and module in self._recomputed(layer):
            self.kept[module] = self._gather(module, layer)

    def accumulated(self, segment: str, layer: int | None, gradient: Name) -> None:
        numel = self.size_of(gradient) // self.buckets.element_bytes
        if not self.modules.trains_base and segment == "backward.layer":
            self._let_frozen_go(layer)
        module = next((each for each in reversed(self.kept) if self.modules.largest(each, layer) == numel), None)
        if module is not None and numel > self.buckets.persistent:
            self._free_all(self.kept.pop(module))
        self._reduce_before(numel, gradient)
        self._free_all(self.again)
        self.again = []

    def final(self) -> None:
        self._reduce()
        self._free_all(self.head)

    # -------------------------------------------------------------- parameters
    def _recomputed(self, layer: int | None) -> list[str]:
        """A layer's modules with parameters, as its recomputation meets them."""
        known = self._met.get(layer)
        if known is None:
            known = self._met[layer] = self._meet(layer)
        return known

    def _meet(self, layer: int | None) -> list[str]:
        template = next(
            step.template for step in self.steps if step.block.segment == "backward.layer" and step.layer == layer
        )
        labels = [
            self.replay.program.labels[entry.label]
            for entry in self.replay.program.templates[template]
            if isinstance(entry, Alloc)
        ]
        met = dict.fromkeys(module_of(label) for label in labels)
        return [module for module in met if self.modules.sizes(module, layer)]

    def _regathers(self) -> dict[tuple[int, int], int]:
        """Where a module is gathered again for its backward, and its elements: before the gradient of its input, which
        comes before that of its weight. A layer's last module is there already."""
        found = {}
        for number, (block, _, template) in enumerate(self.steps):
            entries = self.replay.program.templates[template]
            births = [index for index, entry in enumerate(entries) if isinstance(entry, Alloc)]
            there = block.segment != "backward.layer"
            for entry in entries:
                if not isinstance(entry, Accumulate) or entry.ref.segment != block.segment or entry.ref.offset:
                    continue
                at = births[entry.ref.ordinal] if entry.ref.ordinal < len(births) else None
                if at is None or block.segment == "backward.embed":
                    continue
                birth = entries[at]
                assert isinstance(birth, Alloc)
                numel = self.replay.program.sizes[birth.size].evaluate(self.replay.values)
                numel //= self.buckets.element_bytes
                if numel <= self.buckets.persistent:
                    continue
                if there:
                    found[number, max(at - 1, 0)] = numel
                there = True
        return found

    def _gather(self, module: str, layer: int | None) -> list[Name]:
        """A module's parameters: alone as they are gathered, several copied out of one buffer."""
        sizes = self.modules.sizes(module, layer)
        if len(sizes) < 2:
            return [self._whole(numel) for numel in sizes]
        buffer = self._whole(sum(sizes))
        names = [self._whole(numel) for numel in sizes]
        self.free(buffer)
        return names

    def _whole(self, numel: int) -> Name:
        world = self.buckets.world
        return self.alloc(-(-numel // world) * world * self.buckets.element_bytes, "gathered", LABEL)

    def _open(self, module: str, layer: int | None) -> None:
        """A module runs, and the one before has."""
        if self.open is not None and self.open[0] == module:
            return
        self._close()
        if module in self.done:
            return
        names = self._gather(module, layer)
        if names:
            self.open = (module, names)
            self.done.add(module)
        if module == HEAD and not self.modules.trains_base and self.input is None:
            self.input = self._input()

    def _input(self) -> Name:
        """Of the output head."""
        return self.alloc(self._hidden_bytes(), "activations", f"{HEAD}|input|(B, S, h)")

    def _hidden_bytes(self) -> int:
        values = self.replay.values
        return values["B"] * values["S"] * values["h"] * self.buckets.element_bytes

    def _let_frozen_go(self, layer: int | None) -> None:
        """The first module of a layer is through its backward."""
        frozen = [module for module in self.kept if not self.modules.is_adapter(module) and module != ALONE]
        if not frozen:
            return
        # the recomputation stops at what its last linear saves, once that is through: the gradient that came is there
        # still, the residual, the linear's output, and the adapter's
        outputs = 4 if any(map(self.modules.is_adapter, self._recomputed(layer)[-1:])) else 3
        self.passing(outputs * self._hidden_bytes(), "temporaries", "DeepSpeed|last outputs|(B, S, h)")
        for module in frozen:
            self._free_all(self.kept.pop(module))
        largest = max(self.modules.largest(module, layer) for module in frozen)
        self.kept[ALONE] = [self._whole(largest)]

    def _close(self) -> None:
        if self.open is not None:
            self._free_all(self.open[1])
            self.open = None

    def _free_all(self, names: list[Name]) -> None:
        for name in names:
            self.free(name)

    # -------------------------------------------------------------- gradients
    def _reduce_before(self, numel: int, gradient: Name) -> None:
        if self.waiting and sum(self.waiting) + numel > self.buckets.elements:
            self._reduce()
        self.waiting.append(numel)
        if numel > self.buckets.elements:
            self.apart.append(gradient)
        else:
            self.free(gradient)

    def _reduce(self) -> None:
        """Gradients alone are sent as they lie where they divide; else they are put together rank by rank."""
        world = self.buckets.world
        if len(self.waiting) > 1 or (self.waiting and self.waiting[0] % world):
            padded = sum(-(-numel // world) * world for numel in self.waiting)
            size_bytes = padded * self.buckets.element_bytes
            self.free(self.alloc(size_bytes, "communication", "DeepSpeed|bucket, interleaved"))
        self._free_all(self.apart)
        self.apart, self.waiting = [], []
