"""Keeps a run to its promise while it trains: checkpoints in time, a clean stop or pause, gradients that arrive."""

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from vramplan.executor import first_step, post_load
from vramplan.executor.asked import Asked
from vramplan.executor.attempt import Attempt
from vramplan.executor.cuda_memory import read_cuda
from vramplan.executor.deepspeed_run import check_gradients, tell_before_step
from vramplan.executor.events import Event, Paused, Resumed, Warned
from vramplan.executor.evidence import Evidence
from vramplan.executor.process import Stop
from vramplan.executor.ranks import Ranks
from vramplan.executor.trainer import PlannedTrainer
from vramplan.planner.errors import RunError
from vramplan.planner.units import format_bytes

CHECKPOINT_SECONDS = 15 * 60.0
"""At most this much work is lost, whatever ``save_steps`` says."""
POLL_SECONDS = 0.2
"""How often a run that waits looks whether it is to stop."""
LOADED = "loaded"
"""The name under which ``--allow-drift`` accepts what differs after loading."""


class Guard(TrainerCallback):  # type: ignore[misc]
    """Looks after one process's share of a run. ``trainer`` is set once it exists."""

    trainer: PlannedTrainer

    def __init__(
        self,
        attempt: Attempt,
        evidence: Evidence,
        emit: Callable[[Event], None],
        stop: Stop,
        ranks: Ranks,
        asked: Asked | None = None,
    ) -> None:
        self.attempt = attempt
        self.evidence = evidence
        self.emit = emit
        self.stop = stop
        self.ranks = ranks
        self.asked = asked or Asked()
        self._pausing = False
        self._first: int | None = None
        """The first step of this process, until it is done."""
        self._saved_at = 0.0
        self._warned = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._first = state.global_step
        # A fresh run's first checkpoint is due at once, so that the first failure finds one.
        self._saved_at = time.monotonic() - (0.0 if self.attempt.resume_from else CHECKPOINT_SECONDS)
        self.trainer.marks.graph = self._see_attention
        if self.trainer.deepspeed is not None:
            tell_before_step(self.trainer.deepspeed, lambda: self.trainer.marks.enter("optimizer_step"))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._first:
            engine = self.trainer.deepspeed
            shown = check_gradients(engine) if engine is not None else first_step.check_gradients(self.trainer.model)
            self.refuse(shown)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._first = None
        self._look_at_memory()
        if self.ranks.first:
            self.asked.read()
        stopping, due, self._pausing = self.ranks.any(
            self.stop.requested, self.ranks.first and self._due(), self.asked.pause
        )
        if stopping:
            self._pausing = False
            self.stop.requested = control.should_training_stop = True
        if self._saves and (stopping or due or self._pausing):
            control.should_save = True
        elif self._pausing:  # nothing of a verification is kept, nor before its end of a run under DeepSpeed
            self._wait(state.global_step, control)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved_at = time.monotonic()
        self.asked.checkpoint = False
        if self._pausing:
            self._wait(state.global_step, control)
        elif self.stop.requested and not self.ranks.several:  # while it waited for room; several agree after a step
            control.should_training_stop = True

    def check_loaded(self) -> None:
        """Compare what has been loaded with the plan.

        Raises:
            RunError: something differs.
        """
        device_type = self.trainer.args.device.type
        self.refuse(post_load.check_loaded(self.evidence.plan, self.trainer.model, device_type))

    def refuse(self, differences: tuple[str, ...]) -> None:
        """Stop, or only warn where a person accepts it.

        Raises:
            RunError: something differs from the plan.
        """
        for difference in differences if LOADED in self.attempt.accept else ():
            self.emit(Warned(time=time.time(), message=difference))
        if differences and LOADED not in self.attempt.accept:
            raise RunError(
                f"not as planned: {'; '.join(differences)}",
                remedy=f"plan again with what is installed here, or accept it with --allow-drift {LOADED}",
            )

    def _wait(self, step: int, control: Any) -> None:
        """Until it may go on or is to stop; its step is saved.

        Raises:
            BrokenPipeError: whoever could have let it go on is gone.
        """
        began, resumed, stopping = time.monotonic(), False, False
        self.asked.resume = False
        self.emit(Paused(time=time.time(), step=step))
        while not (resumed or stopping):
            if self.ranks.first:
                self.asked.read(POLL_SECONDS)
            resumed, stopping = self.ranks.any(self.asked.resume, self.stop.requested or self.asked.gone)
        self._pausing, self._saved_at = False, time.monotonic()
        paused_seconds = self._saved_at - began
        self.evidence.paused_seconds += paused_seconds
        if stopping:
            self.stop.requested = control.should_training_stop = True
        else:
            self.emit(Resumed(time=time.time(), step=step, paused_seconds=paused_seconds))
        if self.asked.gone:
            raise BrokenPipeError("whoever paused this run is gone")

    @property
    def _saves(self) -> bool:
        return self.attempt.goal == "run" and self.trainer.deepspeed is None

    def _due(self) -> bool:
        return self.asked.checkpoint or time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS

    def _see_attention(self, hidden: Any) -> None:
        """The kernels of the first forward pass, and a word or a stop where they are not the planned ones."""
        self.trainer.marks.graph = None
        kernels = first_step.attention_kernels(hidden)
        if kernels is None:
            return
        self.evidence.environment["attention"] = kernels
        planned, stepwise = self.trainer.setup.attention, "softmax" in kernels
        if planned == "flash_attention_2" and "flash_attention_2" not in kernels:
            self.refuse((f"attention: {kernels} ran, {planned} planned",))
        elif planned == "sdpa" and stepwise:
            message = "scaled_dot_product_attention fell back to its plain form, which keeps the score matrix"
            self.emit(Warned(time=time.time(), message=message))

    def _look_at_memory(self) -> None:
        """Say once that the upper bound has been passed."""
        budget = self.evidence.plan.budget
        if self.trainer.args.device.type == "cuda":
            used, high, what = read_cuda().peak_reserved_bytes, budget.high_reserved_bytes, "reserved"
        else:
            used, high, what = self.evidence.process_bytes or 0, budget.high_process_bytes, "in use"
        if used > high and not self._warned:
            self._warned = True
            message = f"{format_bytes(used)} {what}, more than the planned upper bound of {format_bytes(high)}"
            self.emit(Warned(time=time.time(), message=message))
