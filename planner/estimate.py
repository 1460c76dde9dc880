"""``estimate``: a model, a workload, a setup and a device in; a priced Candidate with its verdict out."""

from collections.abc import Callable

from vramplan.planner.adapters.calibration_files import find_figures
from vramplan.planner.adapters.profiles import profile_of
from vramplan.planner.adapters.programs import Found, find_program, newer_libraries
from vramplan.planner.candidate import Candidate, ProgramProvenance
from vramplan.planner.cluster import Cluster, with_own_link
from vramplan.planner.device import Device, Route, share_of_rank
from vramplan.planner.errors import UnsupportedError
from vramplan.planner.memory.many_gpus import ManyGpus
from vramplan.planner.memory.outside import Figures
from vramplan.planner.memory.price import Question
from vramplan.planner.memory.ranks import ranks_of
from vramplan.planner.memory.sharded import check_sharding, pricing_of
from vramplan.planner.memory.structure import program_key
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.price_warnings import warnings_of
from vramplan.planner.programs.key import ProgramKey
from vramplan.planner.runnable import why_not_runnable
from vramplan.planner.stored_quantised import check_quantization
from vramplan.planner.targets import check_targets
from vramplan.planner.throughput.calibration import calibrated
from vramplan.planner.throughput.pricing import price_time
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.verdict import judge, judge_ranks
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
    question = _question(model, workload, setup, device, route, figures(device))
    key = program_key(model, workload, setup, question.route, device)
    found = programs(key)
    pricing = pricing_of(question, found.program)
    share = None if device is None else share_of_rank(device, setup.gpus)
    available = None if share is None else share.available_bytes
    hopeless = searching and available is not None and pricing.least_high_bytes() > available
    budget = pricing.budget(with_tensors=with_tensors, with_allocator=not hopeless)
    joined = with_own_link(cluster or Cluster(), profile_of(device)) if isinstance(pricing, ManyGpus) else Cluster()
    ranks = ranks_of(pricing, joined) if isinstance(pricing, ManyGpus) else None
    over = available is not None and not hopeless and budget.process_bytes > available
    at_limit = pricing.process_at_limit(available) if over and available is not None else None
    verdict, reason = judge_ranks(budget, share, ranks, at_limit) if ranks else judge(budget, share, at_limit)
    time = "not asked for" if searching else price_time(pricing, profile_of(device), joined)
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
        warnings=warnings_of(model, setup, device, question.figures),
        provenance=_provenance(key, question, found),
        ranks=ranks,
        time=None if isinstance(time, str) else calibrated(time, question.figures.step_time_ratios),
        time_unknown_because=time if isinstance(time, str) else None,
    )


def _question(
    model: ModelSpec,
    workload: Workload,
    setup: TrainingSetup,
    device: Device | None,
    route: Route | None,
    figures: Figures,
) -> Question:
    """What is to be priced, checked; raises as ``estimate`` does."""
    check_quantization(model)
    chosen = route or (device.route if device is not None else "cuda")
    if chosen is None:
        assert device is not None
        raise UnsupportedError(
            f"{device.name}: which kernels {device.kind} runs is not known, so there is no figure for it",
            remedy="name a CUDA device with --device, or --device cpu",
        )
    question = Question(model, workload, setup, chosen, device, figures)
    check_sharding(question)
    if setup.method.kind not in ("ln-tuning", "full") and hasattr(setup.method, "target_modules"):
        check_targets(setup.method.target_modules, model)
    return question


def _provenance(key: ProgramKey, question: Question, found: Found) -> ProgramProvenance:
    return ProgramProvenance(
        key=key.digest(),
        origin=found.origin,
        versions=found.program.versions,
        basis=_basis(question.route, newer_libraries(found.program), question.figures),
    )


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
