"""A memory program with FSDP2's gathers and reductions put in where they happen.

What the model itself allocates stays as it was traced. Around each unit (units.py) a rank adds:

    forward of a unit   the buffer of the all-gather; the buffer of the unit before goes only now, so that copying out
                        overlaps the next gather; the parameters, whole. They go after the forward, but in tail and root
    backward of a unit  the parameters, whole; its buffer goes; the next unit's is gathered ahead. At the end the
                        parameters go, the reduction buffer before goes, the gradients are copied into a new one and go,
                        and their shards come back: one tensor

Source: torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py (pre_forward, wait_for_unshard, pre_backward,
_backward_prefetch, post_backward), _fsdp_collectives.py (foreach_all_gather, foreach_reduce), torch 2.13.
"""

from vramplan.planner.memory.replay import Replay
from vramplan.planner.memory.rewrite import Name, Rewriter
from vramplan.planner.memory.units import Unit, Units, product
from vramplan.planner.programs.program import Entry, MacroCall

GATHER, REDUCE = "FSDP2|all-gather", "FSDP2|reduce-scatter"
"""How the labels of buffers begin that are allocated on streams of their own."""


def fsdp_replay(
    replay: Replay,
    units: Units,
    world: int,
    *,
    whole_model: bool,
    standard_loss: bool,
    offloaded: bool = False,
) -> Replay:
    """The micro step of one rank of ``world``.

    Args:
        whole_model: the base trains, so accelerate saw the final norm and put it with the head.
        standard_loss: the output head is called; else TRL's loss takes its weight.
        offloaded: shards of parameters and gradients are in host memory.
    """
    return _Writer(replay, units, world, whole_model, standard_loss, offloaded).written()


class _Writer(Rewriter):
    """Writes the program anew, place by place."""

    def __init__(
        self, replay: Replay, units: Units, world: int, whole_model: bool, standard_loss: bool, offloaded: bool
    ) -> None:
        super().__init__(replay)
        self.units, self.world = units, world
        self.whole_model, self.standard_loss, self.offloaded = whole_model, standard_loss, offloaded
        self.whole: dict[int, list[Name]] = {}
        self.buffer: Name | None = None
        """Of the latest gather, until the next one is copied out."""
        self.ahead: tuple[Unit, Name] | None = None
        """Gathered, not yet copied out."""
        self.reducing: Name | None = None
        self.gradients: dict[int, list[Name]] = {}
        self.head: Name | None = None
        self.logits = self.logits_gradient(_head(units)) if standard_loss else None

    # -------------------------------------------------------------- the step
    def before(self, segment: str, layer: int | None) -> None:
        match segment:
            case "forward.embed":
                self._gather_forward(self.units.root)
                self._gather_forward(self.units.tail if self.units.tied else self.units.embed)
            case "forward.layer":
                self._gather_forward(self._unit(layer))
            case "forward.head" if not self.units.tied and (self.whole_model or self.standard_loss):
                self._gather_forward(self.units.tail)
            case "backward.head" if not self.standard_loss:
                self._prefetch(self.units.layers[-1])
            case "backward.layer":
                assert layer is not None
                self._gather_backward(self._unit(layer))
                self._prefetch(self.units.layers[layer - 1] if layer else self.units.embed)
            case "backward.embed":
                self._gather_backward(self.units.embed)

    def after(self, segment: str, layer: int | None) -> None:
        match segment:
            case "forward.layer":
                self._reshard(self._unit(layer))
            case "forward.head" if self.buffer is not None:
                self.free(self.buffer)
                self.buffer = None
            case "backward.head" if not self.units.tied:
                self._reduce(self.units.tail)
            case "backward.layer":
                self._reduce(self._unit(layer))

    def final(self) -> None:
        """What waits for the end of the backward: units whose inputs have no gradient, and the last buffers."""
        for unit in (self.units.root, self.units.tail if self.units.tied else self.units.embed):
            self._reduce(unit)
        if self.ahead is not None:
            self.free(self.ahead[1])
            self.ahead = None
        if self.reducing is not None:
            self.free(self.reducing)

    def _unit(self, layer: int | None) -> Unit:
        assert layer is not None
        return self.units.layers[layer]

    def entry(self, number: int, index: int, entry: Entry) -> None:
        if (number, index) == self.logits:
            self._prefetch(self.units.layers[-1])

    def allocated(self, segment: str) -> None:
        if segment == "forward.embed":  # its first tensor is the embeddings
            self._reshard(self.units.embed)

    def accumulated(self, segment: str, layer: int | None, gradient: Name) -> None:
        self.gradients.setdefault(id(self._owner(segment, layer)), []).append(gradient)

    def macro(self, call: MacroCall) -> None:
        """TRL's loop, with the head taken whole where FSDP2 never saw it called (trl/trainer/utils.py,
        add_fused_lm_head)."""
        apart = not self.units.tied and not self.whole_model
        if apart and call.name == "fused_forward":
            size = self.units.tail.gather_bytes(self.world)
            self.head = self.alloc(size, "gathered", "lm_head|full_tensor|whole")
        super().macro(call)
        if call.name == "fused_backward" and self.head is not None:
            self.free(self.head)
            self.head = None

    def _owner(self, segment: str, layer: int | None) -> Unit:
        """Whose gradients are accumulated in a segment."""
        if segment == "backward.layer":
            return self._unit(layer)
        return self.units.tail if segment == "backward.head" or self.units.tied else self.units.embed

    # -------------------------------------------------------------- what FSDP2 does
    def _gather(self, unit: Unit) -> Name:
        copy_in = unit.copy_in_bytes(self.world)
        cast = self.alloc(copy_in, "gathered", f"{GATHER}|shards cast") if copy_in else None
        buffer = self.alloc(unit.gather_bytes(self.world), "gathered", f"{GATHER}|buffer")
        if cast is not None:
            self.free(cast)
        return buffer

    def _copy_out(self, unit: Unit) -> None:
        sizes = unit.whole_bytes(self.world, 1)
        self.whole[id(unit)] = [self.alloc(size, "gathered", "FSDP2|parameters|whole") for size in sizes]

    def _gather_forward(self, unit: Unit) -> None:
        if not unit:
            return
        buffer = self._gather(unit)
        if self.buffer is not None:
            self.free(self.buffer)
        self._copy_out(unit)
        self.buffer = buffer

    def _prefetch(self, unit: Unit) -> None:
        if unit:
            self.ahead = (unit, self._gather(unit))

    def _gather_backward(self, unit: Unit) -> None:
        if self.ahead is not None and self.ahead[0] is unit:
            self._copy_out(unit)
            self.free(self.ahead[1])
            self.ahead = None

    def _reshard(self, unit: Unit) -> None:
        for name in self.whole.pop(id(unit), []):
            self.free(name)

    def _reduce(self, unit: Unit) -> None:
        """The end of a unit's backward."""
        if not unit:
            return
        self._reshard(unit)
        if self.reducing is not None:
            self.free(self.reducing)
            self.reducing = None
        grads = self.gradients.pop(id(unit), [])
        if not grads:
            return
        self.reducing = self.alloc(unit.reduce_bytes(self.world), "communication", f"{REDUCE}|whole gradients")
        for name in grads:
            self.free(name)
        back, kept = unit.reduced_bytes(self.world), unit.gradient_bytes(self.world)
        shards = self.alloc(back, "gradients" if back == kept else "communication", f"{REDUCE}|shards")
        if back != kept:
            cast = self.alloc(kept, "gradients", f"{REDUCE}|shards in fp32")
            self.free(shards)
            shards = cast
        if self.replay.at.accumulating or self.offloaded:
            self.free(shards)


def _head(units: Units) -> set[int]:
    """Bytes of the gradients that the tail's parameters may have."""
    return {product(each.shape) * each.gathered_bytes for each in units.tail.parameters}
