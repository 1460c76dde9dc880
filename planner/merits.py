"""By what setups are compared, and in which order.

First what can run: what fits before what is tight; then what is known to learn (tiers 0 and 1 of ``evidence``) before
what was measured clearly below; on a card that may also drive a display, and is not here, what leaves room for it.
Then the priorities, the first named first: quality (tier, then preference), speed (times within 5 % are one: the model
of time is no better), then the setup as it was asked for, then memory. Cost is speed on one device. Of one method's
setups those under DeepSpeed are the last in quality: our runs under it keep no checkpoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log

from vramplan.planner.deepspeed import stage_of
from vramplan.planner.device import Device
from vramplan.planner.evidence import (
    SMALL_MODEL_PARAMS,
    WEAK_TIER,
    Data,
    evidence_for,
    optimizer_evidence,
    preference,
)
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.objectives import Objectives, Priority
from vramplan.planner.search import Key
from vramplan.planner.space import Cell
from vramplan.planner.throughput.values import StepTime
from vramplan.planner.units import GIB

SAME_SPEED = 1.05
"""Times nearer to each other than this are not told apart."""
DESKTOP_BYTES = 2 * GIB
"""What a desktop session may take of a card; it takes 1 to 2 GiB."""
_DISPLAYS = ("desktop", "laptop", "workstation")
UNKNOWN_SPEED = (1, 0)
"""Sorts after every known one."""
BEST_SPEED = (0, -(10**9))
"""What is assumed of a setup whose time was not asked for yet."""
_ORDER: tuple[Priority | str, ...] = ("quality", "speed", "as asked", "memory", "cost")


@dataclass(frozen=True)
class Known:
    """What is known of a setup so far; what is not is assumed at its best."""

    high_process_bytes: int = 0
    tight: bool = False
    speed: tuple[int, int] = BEST_SPEED


class Merits:
    """One person's comparison.

    Args:
        rank: the suggested one; a smaller one is a tier less sure.
        data: whether an adapter of that rank can hold what the data teaches.
    """

    def __init__(
        self, model: ModelSpec, device: Device | None, objectives: Objectives, *, rank: int, data: Data
    ) -> None:
        self._small_model = model.total_params < SMALL_MODEL_PARAMS
        self._objectives, self._rank, self.data = objectives, rank, data
        self._device = device
        self._order = (*objectives.prefer, *(name for name in _ORDER if name not in objectives.prefer))

    def tier(self, cell: Cell) -> int:
        """How sure it is that the setup learns what full fine-tuning would; 0 is best."""
        evidence = evidence_for(
            cell.setup.method,
            task=cell.workload.task,
            data=self.data,
            keep_knowledge=self._objectives.keep_knowledge,
        )
        return evidence.tier + self.doubts(cell)

    def doubts(self, cell: Cell) -> int:
        """By how many tiers a setup's choices beside the method make it less sure."""
        below = getattr(cell.setup.method, "r", self._rank) < self._rank
        return int(below) + optimizer_evidence(cell.setup.optimizer).tier

    def is_weak(self, cell: Cell) -> bool:
        """Measured clearly below full fine-tuning, or never compared with it."""
        return self.tier(cell) >= WEAK_TIER

    def leaves_no_room(self, high_process_bytes: int) -> bool:
        """It fits a card of a kind that is not here, but not beside a display."""
        return leaves_no_room(self._device, high_process_bytes)

    def key(self, cell: Cell, known: Known) -> Key:
        """Smaller is better; never smaller when more is known."""
        tier = self.tier(cell)
        parts = {
            "quality": (
                tier,
                preference(cell.kind, data=self.data, small_model=self._small_model),
                stage_of(cell.setup) is not None,
            ),
            "speed": known.speed,
            "cost": known.speed,
            "memory": known.high_process_bytes,
            "as asked": len(cell.changes),
        }
        can = (known.tight, tier >= WEAK_TIER, self.leaves_no_room(known.high_process_bytes))
        return (*can, *(parts[name] for name in self._order))


def leaves_no_room(device: Device | None, high_process_bytes: int) -> bool:
    """It fits a card that is not here and may drive a display, but leaves less than a desktop takes."""
    if device is None or device.source != "profile" or device.form_factor not in _DISPLAYS:
        return False
    return device.available_bytes - high_process_bytes + device.reserve_bytes < DESKTOP_BYTES


def speed_of(time: StepTime | None) -> tuple[int, int]:
    """A step's time a token, as a figure that is the same for times not told apart."""
    if time is None:
        return UNKNOWN_SPEED
    return 0, floor(log(time.seconds.typical / time.tokens_per_step, SAME_SPEED))


def fewest_changes(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, those that differ least from what was asked for first."""
    return sorted(cells, key=lambda cell: len(cell.changes))
