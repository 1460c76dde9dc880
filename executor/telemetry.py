"""What the trainer does, as events: steps, losses, checkpoints, held-out loss, and the measured step's evidence."""

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from vramplan.executor import static_bytes
from vramplan.executor.cuda_memory import read_cuda
from vramplan.executor.disk import free_bytes
from vramplan.executor.events import Evaluated, Event, Measured, Progress, Saved, Step, Warned
from vramplan.executor.evidence import Evidence
from vramplan.executor.folder_size import folder_bytes
from vramplan.executor.phases import PhaseMeter
from vramplan.executor.process import Stop, process_bytes
from vramplan.executor.ranks import Ranks
from vramplan.executor.static_check import differences
from vramplan.executor.trainer import PlannedTrainer

LIFE_SECONDS = 60.0
OUTSIDE_SECONDS = 1.0
"""How often the context's size is looked at: it grows as kernels are first used."""


class Telemetry(TrainerCallback):  # type: ignore[misc]
    """Listens to a trainer and tells the world. ``trainer`` is set once it exists."""

    trainer: PlannedTrainer

    def __init__(
        self, emit: Callable[[Event], None], evidence: Evidence, meter: PhaseMeter, stop: Stop, ranks: Ranks
    ) -> None:
        self.emit = emit
        self.evidence = evidence
        self.meter = meter
        self.stop = stop
        self.ranks = ranks
        self._process_bytes: int | None = None
        self._step_began = self._heard = 0.0
        self._looked_outside = 0.0
        self._tokens_before = 0
        self._timed_seconds = 0.0
        self._timed_tokens = 0
        self._timed_steps = 0

    @property
    def device_type(self) -> str:
        return str(self.trainer.args.device.type)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The bytes of a step that an earlier process measured are not measured again."""
        first = state.global_step + self.meter.measured_step
        self.meter.measured_step = 0 if self.evidence.same_setup else min(first, state.max_steps)
        self.stop.patient = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.stop.patient = False
        self._look_outside(now=True)
        self._report_peaks()
        self._gather()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._tokens_before = state.num_input_tokens_seen
        self.meter.begin_step(state.global_step + 1)
        self._step_began = self._heard = time.monotonic()

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A sign of life in a long step, once a minute."""
        if time.monotonic() - self._heard >= LIFE_SECONDS:
            self._heard = time.monotonic()
            self.emit(Progress(time=time.time(), what=f"in step {state.global_step + 1}"))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.marks.enter("optimizer_step")
        if state.global_step + 1 <= self.meter.measured_step:
            if self.trainer.deepspeed is None:  # which has stepped by now, and keeps tensors of its own
                static = static_bytes.model_bytes(self.trainer.model, self.device_type)
                static["gradients"] = static_bytes.gradient_bytes(self.trainer.model, self.device_type)
                self.evidence.static = static
            self.evidence.measured_shape = {
                **(self.trainer.last_batch or {}),
                "gradient_accumulation_steps": args.gradient_accumulation_steps,
            }

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step + 1 <= self.meter.measured_step and self.trainer.deepspeed is None:
            states = static_bytes.optimizer_bytes(self.trainer.optimizer, self.device_type)
            self.evidence.static["optimizer"] = states

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = state.global_step
        self.meter.end_step(step)
        self._time_step(step, state)
        self.evidence.steps = step
        self._look_outside()
        if step == self.meter.measured_step:
            self._report_measured()
        if not control.should_log:
            self.emit(self._step_event(state, {}))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.evidence.add_loss(state.global_step, logs["loss"])
            self.emit(self._step_event(state, logs))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        if self.ranks.several and state.global_step == 0:
            self.evidence.eval_loss_before = metrics["eval_loss"]
        self.emit(Evaluated(time=time.time(), step=state.global_step, eval_loss=metrics["eval_loss"]))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        place = self.trainer.last_checkpoint
        if place is not None:
            self.emit(
                Saved(
                    time=time.time(),
                    step=state.global_step,
                    path=str(place),
                    size_bytes=folder_bytes(str(place)),
                    seconds=self.evidence.checkpoint_seconds,
                    free_bytes=free_bytes(place),
                )
            )

    def _look_outside(self, *, now: bool = False) -> None:
        """What the process holds, as the machine has it; of a GPU once a second, for it is the driver that is asked."""
        on_cuda = self.device_type == "cuda"
        if on_cuda and not now and time.monotonic() - self._looked_outside < OUTSIDE_SECONDS:
            return
        self._looked_outside = time.monotonic()
        self._process_bytes = process_bytes(self.device_type)
        self.evidence.process_bytes = max(self.evidence.process_bytes or 0, self._process_bytes)
        if on_cuda:
            self.evidence.see_outside(read_cuda().reserved_bytes)

    def _time_step(self, step: int, state: Any) -> None:
        """Steps slowed down by measuring (up to the measured one) count only while there are no others."""
        if step == self.meter.measured_step + 1:
            self._timed_seconds, self._timed_tokens, self._timed_steps = 0.0, 0, 0
        self._timed_seconds += time.monotonic() - self._step_began
        self._timed_tokens += state.num_input_tokens_seen - self._tokens_before
        self._timed_steps += 1
        self.evidence.tokens_per_second = self._timed_tokens / self._timed_seconds if self._timed_seconds else None

    def _report_measured(self) -> None:
        for message in differences(self.evidence.plan.budget, self.evidence.static):
            self.emit(Warned(time=time.time(), message=message))
        self._report_peaks()
        self._gather()

    def _gather(self) -> None:
        """What each of several processes has measured; all of them are at the same place of the run."""
        if self.ranks.several:
            self.evidence.ranks = tuple(self.ranks.gather(self.evidence.of_rank(self.ranks.rank)))

    def _report_peaks(self) -> None:
        """Say every peak that is new or higher than when it was last said."""
        said, self.evidence.peaks = self.evidence.peaks, self.meter.peaks()
        for phase, peak in self.evidence.peaks.items():
            if peak != said.get(phase):
                self.emit(Measured(time=time.time(), phase=phase, **peak.model_dump()))

    def _step_event(self, state: Any, logs: dict[str, Any]) -> Step:
        memory = read_cuda() if self.device_type == "cuda" else None
        left = state.max_steps - state.global_step
        climate = self.evidence.sensors.climate()
        return Step(
            time=time.time(),
            step=state.global_step,
            max_steps=state.max_steps,
            loss=logs.get("loss"),
            grad_norm=logs.get("grad_norm"),
            learning_rate=logs.get("learning_rate"),
            tokens=state.num_input_tokens_seen,
            tokens_per_second=self.evidence.tokens_per_second,
            eta_seconds=left * self._timed_seconds / self._timed_steps if self._timed_steps else None,
            allocated_bytes=None if memory is None else memory.allocated_bytes,
            reserved_bytes=None if memory is None else memory.reserved_bytes,
            process_bytes=self._process_bytes,
            temperature_celsius=climate.temperature_celsius,
            power_watts=climate.power_watts,
        )
