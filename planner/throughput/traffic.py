"""What a micro step writes beside products of matrices, and how many kernels it starts, summed over a memory program.

A memory program lists every tensor the step makes, so what all of them weigh is what kernels write; what they read is a
fixed multiple of that (``constants``). In-place operations make no tensor: the optimizer's are counted in
``optimizer_traffic``, the others are few.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from vramplan.planner.memory.budget import PhaseName
from vramplan.planner.memory.replay import PHASES, Replay
from vramplan.planner.programs.program import Alloc, Entry, MacroCall

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

    def add(self, other: "Traffic") -> None:
        self.written_bytes += other.written_bytes
        self.dequantized_bytes += other.dequantized_bytes
        self.kernels += other.kernels


@dataclass
class MicroStepTraffic:
    """Of a micro step, phase by phase."""

    phases: dict[PhaseName, Traffic] = field(default_factory=dict)

    def phase(self, name: PhaseName) -> Traffic:
        return self.phases.setdefault(name, Traffic())


def count_traffic(replay: Replay) -> MicroStepTraffic:
    """Sum a program at the sizes of its replay, each of its templates once."""
    out = MicroStepTraffic()
    known: dict[int, Traffic] = {}
    kinds = [_kind(label) for label in replay.program.labels]
    for block, _, template in replay.blocks():
        if block.segment.startswith("carried"):  # of the step before
            continue
        if template not in known:
            known[template] = _of_template(replay, replay.program.templates[template], kinds)
        out.phase(PHASES[block.segment]).add(known[template])
    return out


def _of_template(replay: Replay, entries: Iterable[Entry], kinds: list[str]) -> Traffic:
    traffic = Traffic()
    for entry in entries:
        if isinstance(entry, MacroCall):
            _add_fused_loss(replay, entry, traffic)
        elif isinstance(entry, Alloc):
            kind = kinds[entry.label]
            traffic.kernels += kind != "nothing"
            if kind == "dequantized":
                traffic.dequantized_bytes += replay.sizes[entry.size]
            elif kind == "written":
                traffic.written_bytes += replay.sizes[entry.size]
    return traffic


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
