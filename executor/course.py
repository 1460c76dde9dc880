"""What follows what in a run: verification, the run, a rung of the ladder, or a question to a person."""

import time
from collections.abc import Iterator
from pathlib import Path

from vramplan.executor import checkpoints
from vramplan.executor.attempt import Attempt
from vramplan.executor.events import Event, Failed, Finished, OutOfMemory, Rung, Verified, Warned
from vramplan.executor.ladder import Price, choices, next_rung
from vramplan.planner.errors import PreflightError, RunError
from vramplan.planner.plan import Plan
from vramplan.planner.report import RungTaken


class Course:
    """The course of one run.

    Args:
        attempt: what is asked for; its verification, when there is one, comes before.
        verify: verify first.
        resume: go on from the newest complete checkpoint.
        start_over: remove the checkpoints of earlier runs.
        price: what a rung would cost.
    """

    def __init__(
        self, plan: Plan, attempt: Attempt, *, verify: bool, resume: bool, start_over: bool, price: Price
    ) -> None:
        self.plan = plan
        self.attempt = attempt
        self.price = price
        self.output = Path(plan.recipe.output_dir)
        self._verify = verify
        self._resume = resume
        self._start_over = start_over

    def begin(self) -> Iterator[Attempt | Event]:
        """The first attempt.

        Raises:
            PreflightError: checkpoints of an earlier run are in the way.
            RunError: there is nothing to resume from.
        """
        if self.attempt.goal == "run":
            yield from self._checkpoints()
        yield self.attempt.model_copy(update={"goal": "verify"}) if self._verify else self.attempt

    def after(self, attempt: Attempt, last: Failed | Finished, *, stopped: bool) -> Iterator[Attempt | Event]:
        """What follows an attempt that ended with this word; its word itself, where it is the run's last.

        Args:
            stopped: somebody asked for an end.
        """
        if isinstance(last, Finished):
            yield from self._done(attempt, last)
        elif last.out_of_memory is not None and not stopped:
            yield last.out_of_memory
            yield from self._down(attempt, last, last.out_of_memory)
        else:
            yield last

    def _done(self, attempt: Attempt, last: Finished) -> Iterator[Attempt | Event]:
        if attempt.goal == "verify":
            yield Verified(time=time.time(), report=last.report)
        if attempt.goal == self.attempt.goal:
            yield last
        else:
            yield attempt.model_copy(update={"goal": "run"})

    def killed(self, step: int, message: str) -> Failed:
        """The last word of a worker that the host killed for want of its own memory."""
        return Failed(
            time=time.time(),
            message=message,
            remedy="the host ran out of memory: close other programs, or re-plan with a smaller setup",
            out_of_memory=OutOfMemory(time=time.time(), step=step, message=message) if self._on_cpu else None,
        )

    @property
    def _on_cpu(self) -> bool:
        return self.plan.device is not None and self.plan.device.kind == "cpu"

    def _down(self, attempt: Attempt, last: Failed, what: OutOfMemory) -> Iterator[Attempt | Event]:
        """One rung lower, or the question."""
        setup = attempt.setup or self.plan.setup
        rung = next_rung(self.plan.workload, setup, what.phase, self.price)
        if rung is None:
            offered = choices(self.plan.workload, setup, what.phase, self.price)
            remedy = f"choose one and plan again: {'; '.join(offered)}" if offered else last.remedy
            message = f"{last.message}; what is left to change would change the result"
            yield last.model_copy(update={"message": message, "remedy": remedy})
            return
        budget = rung.budget
        taken = RungTaken(
            change=rung.change,
            phase=what.phase,
            step=what.step,
            message=what.message,
            allocator=what.allocator,
            process_bytes=budget.process_bytes if budget else None,
            high_process_bytes=budget.high_process_bytes if budget else None,
        )
        newest = checkpoints.Newest(None, None, ())
        if attempt.goal == "run":
            newest = checkpoints.newest_complete(self.output, self.plan.fingerprint)
        yield Rung(
            time=time.time(),
            change=rung.change,
            process_bytes=taken.process_bytes,
            high_process_bytes=taken.high_process_bytes,
            from_step=newest.seal.step if newest.seal else 0,
        )
        yield attempt.model_copy(
            update={
                "setup": rung.setup,
                "ladder": (*attempt.ladder, taken),
                "resume_from": str(newest.folder) if newest.folder else None,
            }
        )

    def _checkpoints(self) -> Iterator[Event]:
        """Find the checkpoint to go on from, or make sure that none is in the way."""
        if self._start_over:
            checkpoints.remove_all(self.output)
        newest = checkpoints.newest_complete(self.output, self.plan.fingerprint)
        if newest.folder is None and self._resume:
            why = "; ".join(newest.refused) or f"no checkpoint in {self.output}"
            raise RunError(f"there is nothing to go on from: {why}", remedy="run it without --resume")
        if newest.folder is not None and not self._resume:
            raise PreflightError(
                f"{self.output} holds {newest.folder.name} of an earlier run of this plan",
                remedy="go on from it with --resume, or begin again with --start-over",
            )
        if newest.folder is not None and newest.seal is not None:
            for why in newest.refused:
                yield Warned(time=time.time(), message=f"{why}; {newest.folder.name} is used")
            so_far = newest.seal.so_far
            self.attempt = self.attempt.model_copy(
                update={"resume_from": str(newest.folder), "setup": so_far.setup, "ladder": so_far.ladder}
            )
