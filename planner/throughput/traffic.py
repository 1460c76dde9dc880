"""What a micro step writes beside products of matrices, and how many kernels it starts, summed over a memory program.

A memory program lists every tensor the step makes, so what all of them weigh is what kernels write; what they read is a
fixed multiple of that (``constants``). In-place operations make no tensor: the optimizer's are counted in
``optimizer_traffic``, the others are few.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from vramplan.planner.memory.budget import PhaseName
from vramplan.planner.memory.replay import PHASES, Replay
from vramplan.planner.programs.program import Alloc, MacroCall

_PRODUCTS = (
    "aten.mm",
    "aten.bmm",
    "aten.addmm",
    "aten.baddbmm",
    "aten.linear",
    "aten._scaled_dot",
    "aten._flash",
    "flash",
)
"""Operations whose output belongs to a product of matrices, which has its own rate."""
_NO_KERNELS = ("aten.empty", "aten.new_empty", "aten.empty_like")
_DEQUANTIZES = "dequantize"


@dataclass
class Traffic:
    """Of one phase of a micro step."""

    written_bytes: int = 0
    """By elementwise kernels, reductions and copies."""
    dequantized_bytes: int = 0
    """Weights made whole again from 4 or 8 bits."""
    kernels: int = 0


@dataclass
class MicroStepTraffic:
    """Of a micro step, phase by phase."""

    phases: dict[PhaseName, Traffic] = field(default_factory=dict)

    def phase(self, name: PhaseName) -> Traffic:
        return self.phases.setdefault(name, Traffic())


class _Made(NamedTuple):
    """How often a program makes a tensor of each of its sizes in one phase."""

    written: Counter[int]
    dequantized: Counter[int]
    loops: list[MacroCall]


class TrafficForms:
    """A program summed over its stack, each of its templates once; ``at`` puts sizes in.

    Args:
        replay: the program at any sizes.
    """

    def __init__(self, replay: Replay) -> None:
        blocks = [(block.segment, template) for block, _, template in replay.blocks()]
        kinds = [_kind(label) for label in replay.program.labels]
        self._made: dict[PhaseName, _Made] = {}
        self._kernels: Counter[PhaseName] = Counter()
        for (segment, template), times in Counter(blocks).items():
            if segment.startswith("carried"):  # of the step before
                continue
            made = self._made.setdefault(PHASES[segment], _Made(Counter(), Counter(), []))
            for entry in replay.program.templates[template]:
                if isinstance(entry, MacroCall):
                    made.loops.extend([entry] * times)
                elif isinstance(entry, Alloc) and (kind := kinds[entry.label]) != "nothing":
                    self._kernels[PHASES[segment]] += times
                    if kind != "product":
                        (made.written if kind == "written" else made.dequantized)[entry.size] += times

    def at(self, replay: Replay) -> MicroStepTraffic:
        """The traffic at the sizes of a replay of the same program on the same stack."""
        out = MicroStepTraffic()
        for phase, made in self._made.items():
            traffic = out.phases[phase] = Traffic(kernels=self._kernels[phase])
            traffic.written_bytes = sum(replay.sizes[size] * times for size, times in made.written.items())
            traffic.dequantized_bytes = sum(replay.sizes[size] * times for size, times in made.dequantized.items())
            for loop in made.loops:
                _add_fused_loss(replay, loop, traffic)
        return out


def count_traffic(replay: Replay) -> MicroStepTraffic:
    """Sum a program at the sizes of its replay."""
    return TrafficForms(replay).at(replay)


def _kind(label: str) -> str:
    """What making a tensor means, by the operation in its label.

    >>> _kind("model.norm|aten.mul.Tensor|(B, S, h) bfloat16"), _kind("model.lm_head|aten.mm|(B*S, V) bfloat16")
    ('written', 'product')
    """
    operation = label.split("|")[1] if "|" in label else label
    if operation.startswith(_NO_KERNELS) or "kernel buffer" in operation:
        return "nothing"
    if _DEQUANTIZES in operation:
        return "dequantized"
    return "product" if operation.startswith(_PRODUCTS) else "written"


def _add_fused_loss(replay: Replay, call: MacroCall, traffic: Traffic) -> None:
    """TRL's loss over tiles of logits: each logit is written by a product and gone over in place, twice in the
    backward (planner/memory/fused_loss.py)."""
    head = replay.fused_head(call)
    passes = 1 if call.name == "fused_forward" else 2
    traffic.written_bytes += passes * head.tokens * head.vocabulary * head.compute_bytes
    traffic.kernels += passes * sum(len(list(widths)) for _, widths in head.tiles()) * 3
