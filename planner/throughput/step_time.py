"""Step time by roofline: each phase takes as long as its products, attention and memory traffic, or as
starting its kernels.

    phase    = max(device, host) + unhidden x min(device, host)
    device   = products + attention + traffic + dequantisation
    host     = kernels x launch
    products = max(FLOPs / min(peak x ceiling, watts x FLOPs a joule), weight bytes / (bandwidth x fraction))
    step     = micro batches x (forward + loss + backward) + optimizer step + communication that nothing hides

FLOPs: ``flops``. Traffic: ``traffic``, ``optimizer_traffic``. Fractions: ``constants``. docs/time-model.md works an
example by hand.
"""

from collections.abc import Iterator
from typing import NamedTuple

from vramplan.planner.device import DeviceProfile
from vramplan.planner.dtypes import BYTES
from vramplan.planner.memory.price import Question
from vramplan.planner.memory.replay import Replay
from vramplan.planner.memory.static import StaticMemory
from vramplan.planner.throughput.communication import Exchange
from vramplan.planner.throughput.constants import Constants
from vramplan.planner.throughput.fitted import CONSTANTS
from vramplan.planner.throughput.flops import MicroStepWork, Work, count_work
from vramplan.planner.throughput.optimizer_traffic import OptimizerTraffic, optimizer_traffic
from vramplan.planner.throughput.traffic import MicroStepTraffic, Traffic, count_traffic
from vramplan.planner.throughput.values import Range, StepTime, TimeLine, TimePhase
from vramplan.planner.training_setup import TrainingSetup


class Rates(NamedTuple):
    """What a device's data sheet says of its speed."""

    flops_per_second: int
    bytes_per_second: int
    architecture: str
    watts: int | None = None
    """The board's power limit."""


class Counted(NamedTuple):
    """Everything of a step that is counted and nothing that is fitted."""

    work: MicroStepWork
    traffic: MicroStepTraffic
    optimizer: OptimizerTraffic
    micro_batches: int
    tokens_per_step: int


class PhaseTime(NamedTuple):
    """Seconds of one phase of one micro batch, by what takes them."""

    products: float
    attention: float
    traffic: float
    dequantization: float
    host: float
    unhidden: float
    """The share of the shorter of device and host time that the longer does not hide."""

    @property
    def device(self) -> float:
        return self.products + self.attention + self.traffic + self.dequantization

    @property
    def seconds(self) -> float:
        return max(self.device, self.host) + self.unhidden * min(self.device, self.host)


def compute_dtype(setup: TrainingSetup) -> str:
    """The dtype products run in: autocast's, else the base's."""
    mixed = setup.precision.mixed_precision
    return mixed if mixed != "no" else setup.precision.dtype


def rates_of(profile: DeviceProfile, setup: TrainingSetup) -> Rates | str:
    """A profile's rates for a setup, or why there are none."""
    dtype = compute_dtype(setup)
    flops = {
        "bf16": profile.bf16_flops_per_second,
        "fp16": profile.fp16_flops_per_second,
        "fp32": profile.fp32_flops_per_second,
    }.get(dtype)
    if not flops:
        return f"the profile of {profile.name} has no {dtype} rate"
    if not profile.memory_bandwidth_bytes_per_second:
        return f"the profile of {profile.name} has no memory bandwidth"
    return Rates(flops, profile.memory_bandwidth_bytes_per_second, profile.architecture, profile.tdp_watts)


def count(question: Question, replay: Replay, static: StaticMemory) -> Counted:
    """Count a step of a question whose program is replayed."""
    setup, workload = question.setup, question.workload
    element_bytes = BYTES[compute_dtype(setup)]
    rows = setup.micro_batch_size * setup.gradient_accumulation_steps
    return Counted(
        work=count_work(question.model, workload, setup, element_bytes=element_bytes),
        traffic=count_traffic(replay),
        optimizer=optimizer_traffic(setup, static.trainable, question.route),
        micro_batches=setup.gradient_accumulation_steps,
        tokens_per_step=rows * (workload.sequence_length + (workload.target_length or 0)),
    )


def step_time(
    counted: Counted, rates: Rates, known: Constants = CONSTANTS, *, exchange: Exchange | None = None, ranks: int = 1
) -> StepTime:
    """The time of one optimizer step; of several devices, where each does what is counted and they exchange the rest.

    The lower end has all of the exchange hidden behind computing, the upper end none of it.

    Args:
        ranks: how many devices do so; tokens are of all of them, FLOPs of one.
    """
    lines = tuple(_lines(counted, rates, known, exchange))
    seconds = sum(line.seconds for line in lines)
    measured = rates.architecture in known.flops_per_joule
    low, high = (known.low, known.high) if measured else (known.unmeasured_low, known.unmeasured_high)
    computing = sum(line.seconds for line in lines if line.phase != "communication")
    at_most = computing + (exchange.seconds(known.link_fraction, counted.micro_batches) if exchange else 0.0)
    span = Range(low=computing * low, typical=seconds, high=at_most * high)
    tokens = counted.tokens_per_step * ranks
    needed = counted.work.model_flops * counted.micro_batches
    basis = known.basis if measured else f"{known.basis}; no run on {rates.architecture} among them"
    if exchange is not None:
        basis += (
            f"; between ranks {known.link_fraction:.0%} of {exchange.name}, as far as computing does not hide it; "
            "the range is from all of it hidden to none"
        )
    return StepTime(
        seconds=span,
        lines=lines,
        tokens_per_step=tokens,
        tokens_per_second=Range(low=tokens / span.high, typical=tokens / seconds, high=tokens / span.low),
        model_flops=needed,
        device_flops=counted.work.flops * counted.micro_batches,
        peak_flops_per_second=rates.flops_per_second,
        mfu=mfu(needed, seconds, rates.flops_per_second),
        basis=basis,
    )


def mfu(model_flops: int, seconds: float, peak_flops_per_second: int) -> float:
    """Model FLOPs utilisation: what the method needs over what the device could do in that time.

    >>> mfu(60 * 10**12, 1.0, 120 * 10**12)
    0.5
    """
    return model_flops / seconds / peak_flops_per_second


def _lines(counted: Counted, rates: Rates, known: Constants, exchange: Exchange | None) -> Iterator[TimeLine]:
    work, traffic, times = counted.work, counted.traffic, counted.micro_batches
    backward = work.backward + work.recomputation
    parts: tuple[tuple[TimePhase, Work, Traffic], ...] = (
        ("forward", work.forward, traffic.phase("forward")),
        ("loss", work.loss, traffic.phase("loss")),
        ("backward", backward, traffic.phase("backward")),
    )
    busy = took_backward = 0.0
    for phase, needed, moved in parts:
        accumulated = counted.optimizer.accumulated_bytes / times if phase == "backward" else 0.0
        took = phase_time(needed, moved, rates, known, moved_bytes=accumulated)
        busy, took_backward = busy + took.seconds, took.seconds
        yield TimeLine(phase=phase, seconds=took.seconds * times, because=_because(took, needed, times))
    step = counted.optimizer
    streamed = step.moved_bytes / (rates.bytes_per_second * known.memory_fraction)
    seconds = max(streamed, step.kernels * known.launch_seconds)
    yield TimeLine(phase="optimizer_step", seconds=seconds, because=f"{step.moved_bytes / 1e9:.2f} GB moved")
    if exchange:
        yield TimeLine(
            phase="communication",
            seconds=exchange.unhidden_seconds(known.link_fraction, busy, took_backward, times),
            because=f"{exchange.seconds(known.link_fraction, times):.3g} s over {exchange.name}, hidden as far as the "
            "phases beside it are long",
        )


def phase_time(work: Work, traffic: Traffic, rates: Rates, known: Constants, *, moved_bytes: float = 0.0) -> PhaseTime:
    """One phase of one micro batch; ``moved_bytes`` come on top of what the program writes."""
    flops = rates.flops_per_second
    bandwidth = rates.bytes_per_second * known.memory_fraction
    matmul_rate = known.matmul_rate(flops, rates.watts, rates.architecture)
    return PhaseTime(
        products=max(work.linear_flops / matmul_rate, work.weight_bytes / bandwidth),
        attention=work.attention_flops / (flops * known.attention_fraction),
        traffic=(traffic.written_bytes * known.moved_per_written + moved_bytes) / bandwidth,
        dequantization=traffic.dequantized_bytes * known.dequantized_moved / bandwidth,
        host=traffic.kernels * known.launch_seconds,
        unhidden=known.unhidden,
    )


def _because(took: PhaseTime, work: Work, times: int) -> str:
    """The shares of a phase, largest first."""
    if took.host > took.device:
        return f"starting its kernels {took.host / took.seconds:.0%}, the rest is hidden behind that"
    shares = {
        f"{work.linear_flops * times / 1e12:.1f} TFLOP of products": took.products,
        f"{work.attention_flops * times / 1e12:.2f} TFLOP of attention": took.attention,
        "memory traffic": took.traffic,
        "dequantisation": took.dequantization,
        "starting kernels": took.unhidden * took.host,
    }
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    total = took.seconds or 1.0
    return ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in ranked if seconds / total >= 0.005)
