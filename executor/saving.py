"""How the trainer writes: checkpoints sealed in one move, results whole, and a full disk waited for."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from vramplan.executor import checkpoints
from vramplan.executor.disk import free_bytes, is_disk_full, wait_for_room
from vramplan.executor.evidence import Evidence
from vramplan.executor.folder_size import folder_bytes
from vramplan.executor.process import Stop
from vramplan.executor.ranks import Ranks
from vramplan.executor.saved_size import checkpoint_bytes, final_bytes

AGAIN_SECONDS = 60.0
"""After a write failed for want of room, it is tried again as soon as more is free, or after this long."""


class Saver:
    """Writes into ``output`` for one run.

    Args:
        evidence: sealed into every checkpoint.
        stop: asked while waiting for room.
        say: told while waiting for room.
        ranks: every one of them writes its part, the first makes room, seals and places.
    """

    def __init__(self, evidence: Evidence, stop: Stop, say: Callable[[str], None], ranks: Ranks) -> None:
        self.evidence = evidence
        self.stop = stop
        self.say = say
        self.ranks = ranks
        self.output = Path(evidence.plan.recipe.output_dir)

    def checkpoint(self, step: int, write: Callable[[str], None]) -> Path | None:
        """Write, seal and place a checkpoint, then prune; None when the run was told to stop for want of room.

        Args:
            write: writes ``checkpoint-STEP`` into the folder it is given.
        """
        began = time.monotonic()
        needed = self.evidence.checkpoint_bytes or checkpoint_bytes(self.evidence.plan)
        if not self._written(write, needed, step):
            return None
        if not self.ranks.first:
            return self.output / f"{checkpoints.PREFIX}{step}"
        so_far = self.evidence.report("interrupted")
        place = checkpoints.seal(self._saving / f"{checkpoints.PREFIX}{step}", so_far, step)
        shutil.rmtree(self._saving)
        checkpoints.prune(self.output, self.evidence.plan.recipe.save_total_limit, step)
        self.evidence.checkpoint_bytes = folder_bytes(str(place))
        self.evidence.checkpoint_seconds = time.monotonic() - began
        return place

    def result(self, step: int, write: Callable[[str], None]) -> bool:
        """Write the result beside the checkpoints, each file moved into place whole; False when told to stop."""
        if not self._written(write, final_bytes(self.evidence.plan), step):
            return False
        if not self.ranks.first:
            return True
        for path in sorted(self._saving.rglob("*")):
            place = self.output / path.relative_to(self._saving)
            if path.is_dir():
                place.mkdir(exist_ok=True)
            else:
                os.replace(path, place)
        shutil.rmtree(self._saving)
        return True

    @property
    def _saving(self) -> Path:
        return self.output / checkpoints.SAVING

    def _written(self, write: Callable[[str], None], needed_bytes: int, step: int) -> bool:
        """Write into an empty ``.saving``; waits for room before, and again when the disk fills up on the way. Of
        several ranks one cannot begin again by itself: there a disk that fills up on the way ends the run."""
        at_most = float("inf")
        while True:
            room = self.ranks.first and self._has_room(needed_bytes, step, at_most)
            if self.ranks.any(room) == (False,):
                return False
            try:
                write(str(self._saving))
            except Exception as error:
                if self.ranks.several or not is_disk_full(error):
                    raise
                shutil.rmtree(self._saving, ignore_errors=True)
                needed_bytes, at_most = free_bytes(self.output) + 1, AGAIN_SECONDS
            else:
                self.ranks.wait()
                return True

    def _has_room(self, needed_bytes: int, step: int, at_most: float) -> bool:
        """Make ``.saving`` once there is room for what is written there; False when told to stop."""
        shutil.rmtree(self._saving, ignore_errors=True)
        if free_bytes(self.output) < needed_bytes:
            checkpoints.prune(self.output, 1, step)
        if not wait_for_room(self.output, needed_bytes, self._stopped, self.say, at_most):
            return False
        self._saving.mkdir(parents=True)
        return True

    def _stopped(self) -> bool:
        return self.stop.requested
