"""``estimate``: a model, a workload, a setup and a device in; a priced Candidate with its verdict out."""

from collections.abc import Callable

from vramplan.planner.adapters.calibration_files import find_figures
from vramplan.planner.adapters.profiles import match_profile
from vramplan.planner.adapters.programs import Found, find_program, newer_libraries
from vramplan.planner.attention import before_ampere, keeps_scores
from vramplan.planner.candidate import Candidate, ProgramProvenance, Verdict
from vramplan.planner.cluster import Cluster, Ranks, with_own_link
from vramplan.planner.device import Device, DeviceProfile, Route, share_of_rank
from vramplan.planner.dtypes import BYTES
from vramplan.planner.errors import UnsupportedError
from vramplan.planner.memory.budget import MemoryBudget
from vramplan.planner.memory.many_gpus import ManyGpus
from vramplan.planner.memory.outside import PRIOR, Figures
from vramplan.planner.memory.price import Question
from vramplan.planner.memory.ranks import ranks_of
from vramplan.planner.memory.recurrence import is_recurrent
from vramplan.planner.memory.sharded import check_sharding, pricing_of
from vramplan.planner.memory.static import base_dtype
from vramplan.planner.memory.structure import program_key
from vramplan.planner.methods import quant_of
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.programs.key import ProgramKey
from vramplan.planner.runnable import why_not_runnable
from vramplan.planner.stored_quantised import check_quantization, unpacked_warning
from vramplan.planner.targets import check_targets
from vramplan.planner.throughput.calibration import calibrated
from vramplan.planner.throughput.pricing import price_time
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.units import format_bytes
from vramplan.planner.workload import Workload


def estimate(
    model: ModelSpec,
    workload: Workload,
    setup: TrainingSetup,
    device: Device | None,
    *,
    route: Route | None = None,
    programs: Callable[[ProgramKey], Found] = find_program,
    figures: Callable[[Device | None], Figures] = find_figures,
    with_tensors: bool = True,
    searching: bool = False,
    cluster: Cluster | None = None,
) -> Candidate:
    """Price one setup: of one device, or of the rank that holds most.

    Args:
        route: whose kernels run; the device's own, or CUDA's without a device.
        programs: where memory programs come from.
        figures: where the figures come from that nobody can count: what was run on such a device here, or the priors.
        with_tensors: also name the tensors alive at the peak.
        searching: only whether it fits matters, so where it cannot the allocator is not replayed: reserved is then what
            is allocated, and the verdict may be "tight" for "no".
        cluster: what joins several GPUs, and their hosts' memory.

    Raises:
        NoProgramError: no memory program answers.
        UnsupportedError: understood, but not priced yet, or the device's kernels are not known.
        UsageError: the setup does not suit the model.
    """
    check_quantization(model)
    chosen = route or (device.route if device is not None else "cuda")
    if chosen is None:
        assert device is not None
        raise UnsupportedError(
            f"{device.name}: which kernels {device.kind} runs is not known, so there is no figure for it",
            remedy="name a CUDA device with --device, or --device cpu",
        )
    known = figures(device)
    question = Question(model, workload, setup, chosen, device, known)
    check_sharding(question)
    key = program_key(model, workload, setup, chosen, device)
    if setup.method.kind not in ("ln-tuning", "full") and hasattr(setup.method, "target_modules"):
        check_targets(setup.method.target_modules, model)
    found = programs(key)
    pricing = pricing_of(question, found.program)
    share = None if device is None else share_of_rank(device, setup.gpus)
    available = None if share is None else share.available_bytes
    hopeless = searching and available is not None and pricing.least_high_bytes() > available
    budget = pricing.budget(with_tensors=with_tensors, with_allocator=not hopeless)
    joined = with_own_link(cluster or Cluster(), _profile(device)) if isinstance(pricing, ManyGpus) else Cluster()
    ranks = ranks_of(pricing, joined) if isinstance(pricing, ManyGpus) else None
    over = available is not None and not hopeless and budget.process_bytes > available
    at_limit = pricing.process_at_limit(available) if over and available is not None else None
    verdict, reason = judge_ranks(budget, share, ranks, at_limit) if ranks else judge(budget, share, at_limit)
    time = "not asked for" if searching else price_time(pricing, _profile(device), joined)
    reason_not_to_run = why_not_runnable(setup, workload.task, model, device)
    return Candidate(
        model=model.repo_id,
        total_params=model.total_params,
        trainable_params=(pricing if isinstance(pricing, ManyGpus) else pricing.static).trainable_params,
        setup=setup,
        workload=workload,
        device=device,
        budget=budget,
        verdict=verdict,
        verdict_reason=reason,
        available_bytes=available,
        headroom_bytes=None if available is None else available - budget.high_process_bytes,
        runnable=reason_not_to_run is None,
        not_runnable_because=reason_not_to_run,
        warnings=warnings_of(model, setup, device, known),
        provenance=ProgramProvenance(
            key=key.digest(),
            origin=found.origin,
            versions=found.program.versions,
            basis=_basis(chosen, newer_libraries(found.program), known),
        ),
        ranks=ranks,
        time=None if isinstance(time, str) else calibrated(time, known.step_time_ratios),
        time_unknown_because=time if isinstance(time, str) else None,
    )


def judge_ranks(
    budget: MemoryBudget, device: Device | None, ranks: Ranks, at_limit: int | None = None
) -> tuple[Verdict | None, str]:
    """The worst rank decides, and the hosts' memory where it is known."""
    verdict, reason = judge(budget, device, at_limit)
    host = ranks.host_available_bytes
    if host is not None and ranks.host_node_bytes > host:
        needed, free = format_bytes(ranks.host_node_bytes), format_bytes(host)
        host_reason = f"a node's {ranks.gpus} processes need {needed} of host memory, and it has {free}"
        both = f"each of {ranks.world_size} ranks {reason}; {host_reason}" if verdict == "no" else host_reason
        return ("no" if verdict else verdict), both
    return verdict, f"each of {ranks.world_size} ranks {reason}" if verdict in ("fits", "no") else reason


def _profile(device: Device | None) -> DeviceProfile | None:
    """The data sheet of a device's product, where it has one."""
    return None if device is None or device.profile is None else match_profile(device.profile)[0]


def judge(budget: MemoryBudget, device: Device | None, at_limit: int | None = None) -> tuple[Verdict | None, str]:
    """fits: the high process figure is available; tight: only the estimate is; no: neither.

    Args:
        at_limit: what the process holds where the allocator gives back its cache when the device is full, if that is
            enough: tight as well.
    """
    if device is None:
        return None, "no device named"
    if device.kind == "rocm":
        return None, "priced along CUDA's kernels; nobody has compared them with ROCm's, so there is no verdict"
    available = device.available_bytes
    high, expected = budget.high_process_bytes, budget.process_bytes
    if high <= available:
        return "fits", f"needs up to {format_bytes(high)} of {format_bytes(available)}"
    if expected <= available:
        return "tight", (
            f"expected {format_bytes(expected)} of {format_bytes(available)}, but it may take {format_bytes(high)}"
        )
    if at_limit is not None and at_limit <= available:
        return "tight", (
            f"expected {format_bytes(expected)}, {format_bytes(expected - available)} more than"
            f" {format_bytes(available)}: fits only where the allocator gives back its cache each time the device is"
            " full, which takes time"
        )
    if device.free_bytes is not None and high <= device.total_bytes - device.reserve_bytes:
        missing = format_bytes(high - available)
        return "no", f"would fit with {missing} freed on this card ({_holders(device)})"
    return (
        "no",
        f"needs {format_bytes(expected)}, {format_bytes(expected - available)} more than {format_bytes(available)}",
    )


def _holders(device: Device) -> str:
    holders = [holder for holder in device.holders if holder.used_bytes]
    if not holders:
        return "the driver does not say who holds it"
    named = [f"{holder.name or holder.pid}: {format_bytes(holder.used_bytes or 0)}" for holder in holders[:3]]
    return "held by " + ", ".join(named)


def warnings_of(
    model: ModelSpec, setup: TrainingSetup, device: Device | None, figures: Figures = PRIOR
) -> tuple[str, ...]:
    """What a person should know beside the numbers."""
    out = []
    experts = sum(weight.numel * weight.count for weight in model.weights if weight.module == "experts")
    if experts and quant_of(setup.method) is not None:
        size = format_bytes(experts * BYTES[base_dtype(setup)])
        out.append(f"bitsandbytes does not quantise fused experts: {size} of them stay in {base_dtype(setup)}")
    if model.quantization is not None:
        out.append(unpacked_warning(model, base_dtype(setup)))
    if is_recurrent(model):
        out.append(
            "priced without the mamba-ssm, causal-conv1d and flash-linear-attention kernels: plain torch, as "
            "transformers runs it where they are not installed; with them it takes less"
        )
    if quant_of(setup.method) == "int8":
        out.append(
            "8-bit linears keep their inputs whatever checkpointing says; how many input columns are outliers is data, "
            "and the figure has seven a linear"
        )
    if device is not None and device.route == "cuda" and not figures.num_plans:
        out.append("unmeasured on this GPU: the upper figure rests on published runs, not on our own measurement")
    if before_ampere(device) and keeps_scores(model, setup):
        out.append(
            "sdpa on this GPU has no FlashAttention, and no other kernel for heads that share keys and values: it "
            "makes scores of tokens x tokens for every head, in fp32"
        )
    if setup.packing and setup.attention == "sdpa":
        out.append("packed rows under sdpa need a mask of tokens x tokens; --attention flash_attention_2 needs none")
    elif setup.packing:
        out.append("packed rows are priced as one document each; the data decides how many there are")
    if model.revision is None and model.provenance.source == "catalogue":
        out.append("unpinned: the catalogue's copy of the config, not a revision on the Hub")
    return tuple(out)


def _basis(route: Route, newer: dict[str, str], known: Figures) -> str:
    if route == "cpu":
        basis = "traced on fake tensors; equal to tracked CPU steps to the byte, autograd's own scalars apart"
    elif known.num_plans:
        plans = "1 plan" if known.num_plans == 1 else f"{known.num_plans} plans"
        basis = f"traced on fake tensors along CUDA's kernels; calibrated by {plans} run on such a device here"
    else:
        basis = "traced on fake tensors along CUDA's kernels; unmeasured on a GPU"
    if newer:
        here = ", ".join(f"{name} {version}" for name, version in sorted(newer.items()))
        basis += f"; traced with other versions than are installed here ({here})"
    return basis
