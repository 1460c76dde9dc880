"""Small, consistent values for tests: a two-layer Llama, a 24 GiB card, a priced LoRA setup, its plan and report.

Every builder takes keyword changes. The numbers of ``make_budget`` are invented; its lines sum to its totals.
"""

from datetime import UTC, datetime
from typing import Any

from vramplan.planner.adapters.plan_files import freeze_plan
from vramplan.planner.candidate import Candidate, ProgramProvenance
from vramplan.planner.device import Device
from vramplan.planner.memory.budget import (
    STATIC_COMPONENTS,
    BudgetLine,
    Component,
    LiveTensor,
    MemoryBudget,
    PhaseBudget,
    PhaseName,
)
from vramplan.planner.methods import Lora
from vramplan.planner.model_spec import ModelSpec, Provenance, Weight
from vramplan.planner.plan import Plan, PlannedData
from vramplan.planner.report import MeasuredPhase, RunReport
from vramplan.planner.training_setup import TrainingRecipe, TrainingSetup
from vramplan.planner.units import GIB, MIB
from vramplan.planner.workload import Workload

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
VERSIONS = {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2", "trl": "1.16.0", "bitsandbytes": "0.50.2"}


def make_model_spec(**changes: Any) -> ModelSpec:
    """A Llama of two layers: hidden 64, feed-forward 176, 4 heads, 2 KV heads, 256 tokens, untied."""
    layers = (0, 1)

    def linear(name: str, out: int, into: int) -> Weight:
        return Weight(
            name=f"model.layers.{{layer}}.{name}.weight",
            shape=(out, into),
            dtype="bf16",
            module="linear",
            layers=layers,
        )

    def norm(name: str) -> Weight:
        return Weight(
            name=f"model.layers.{{layer}}.{name}.weight", shape=(64,), dtype="bf16", module="norm", layers=layers
        )

    weights = (
        Weight(name="model.embed_tokens.weight", shape=(256, 64), dtype="bf16", module="embedding"),
        linear("self_attn.q_proj", 64, 64),
        linear("self_attn.k_proj", 32, 64),
        linear("self_attn.v_proj", 32, 64),
        linear("self_attn.o_proj", 64, 64),
        linear("mlp.gate_proj", 176, 64),
        linear("mlp.up_proj", 176, 64),
        linear("mlp.down_proj", 64, 176),
        norm("input_layernorm"),
        norm("post_attention_layernorm"),
        Weight(name="model.norm.weight", shape=(64,), dtype="bf16", module="norm"),
        Weight(name="lm_head.weight", shape=(256, 64), dtype="bf16", module="linear"),
    )
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 256,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    }
    spec = ModelSpec(
        repo_id="fake/llama-2-layers",
        revision="0123456789abcdef0123456789abcdef01234567",
        model_type="llama",
        architecture="LlamaForCausalLM",
        config=config,
        weights=weights,
        checkpoint_dtype="bf16",
        provenance=Provenance(source="catalogue", location="fake/llama-2-layers", parameters_basis="counted by hand"),
        context_length=2048,
    )
    return spec.model_copy(update=changes)


def make_device(**changes: Any) -> Device:
    """A reading of an Ada card with 24 GiB, 1 GiB of it in use."""
    device = Device(
        source="reading",
        kind="cuda",
        name="NVIDIA GeForce RTX 4090",
        total_bytes=24 * GIB,
        free_bytes=23 * GIB,
        index=0,
        uuid="GPU-00000000-1111-2222-3333-444444444444",
        compute_capability=(8, 9),
        driver_version="590.00",
        read_at=NOW,
        profile="RTX 4090",
        bf16_native=True,
        flash_attention_2=True,
        bnb_4bit=True,
        architecture="Ada",
    )
    return device.model_copy(update=changes)


def make_cpu(**changes: Any) -> Device:
    """A machine without an accelerator: 16 GiB, 12 free."""
    device = Device(source="reading", kind="cpu", name="CPU", total_bytes=16 * GIB, free_bytes=12 * GIB, read_at=NOW)
    return device.model_copy(update=changes)


def make_line(
    component: Component, estimate_bytes: int, *, total_params: int = 10**9, high_bytes: int | None = None
) -> BudgetLine:
    """One ledger line; high defaults to the estimate."""
    return BudgetLine(
        component=component,
        estimate_bytes=estimate_bytes,
        high_bytes=estimate_bytes if high_bytes is None else high_bytes,
        bytes_per_param=estimate_bytes / total_params,
        because=f"the {component.replace('_', ' ')} of a fake",
    )


def make_budget(
    *, process_bytes: int = 12 * GIB, high_process_bytes: int | None = None, total_params: int = 10**9
) -> MemoryBudget:
    """A budget whose backward phase is the peak. Process = peak + 512 MiB context + 256 MiB fragmentation."""
    high_process_bytes = process_bytes + GIB if high_process_bytes is None else high_process_bytes
    context, fragmentation = 512 * MIB, 256 * MIB
    peak = process_bytes - context - fragmentation
    static: dict[Component, int] = {"weights": peak // 2, "adapter": peak // 100, "gradients": peak // 100}
    static["optimizer"] = peak // 50
    parts: dict[PhaseName, tuple[dict[Component, int], int]] = {
        "load": ({"weights": static["weights"]}, 0),
        "forward": ({name: static[name] for name in static if name != "gradients"}, peak // 4),
        "backward": (static, peak - sum(static.values())),
        "optimizer_step": (static, peak // 50),
    }
    phases = tuple(_phase(name, known, dynamic, total_params) for name, (known, dynamic) in parts.items())
    return MemoryBudget(
        phases=phases,
        peak_phase="backward",
        peak_allocated_bytes=peak,
        peak_reserved_bytes=peak + fragmentation,
        high_reserved_bytes=high_process_bytes - context,
        process_bytes=process_bytes,
        high_process_bytes=high_process_bytes,
        process_lines=(
            make_line("context", context, total_params=total_params),
            make_line("fragmentation", fragmentation, total_params=total_params),
        ),
        steady_allocated_bytes=phases[0].allocated_bytes,
        held=phases[0].lines,
        peak_tensors=(
            LiveTensor(
                label="layers.mlp.down_proj aten.mm",
                shape="(B*S, ff) bf16",
                count=2,
                total_bytes=64 * MIB,
                component="activations",
            ),
        ),
    )


def _phase(name: PhaseName, static: dict[Component, int], dynamic_bytes: int, total_params: int) -> PhaseBudget:
    parts = dict(static)
    if dynamic_bytes:
        parts["temporaries" if name == "optimizer_step" else "activations"] = dynamic_bytes
    lines = tuple(make_line(component, size, total_params=total_params) for component, size in parts.items())
    return PhaseBudget(name=name, allocated_bytes=sum(parts.values()), lines=lines)


def make_candidate(
    *,
    model: ModelSpec | None = None,
    setup: TrainingSetup | None = None,
    workload: Workload | None = None,
    device: Device | None = None,
    budget: MemoryBudget | None = None,
    **changes: Any,
) -> Candidate:
    """A priced LoRA setup; verdict and headroom follow from the device and the budget."""
    model = model or make_model_spec()
    budget = budget or make_budget(total_params=model.total_params)
    available = device.available_bytes if device else None
    verdict = None
    if available is not None:
        verdict = "no" if budget.process_bytes > available else "tight"
        if budget.high_process_bytes <= available:
            verdict = "fits"
    candidate = Candidate(
        model=model.repo_id,
        total_params=model.total_params,
        trainable_params=37_376,
        setup=setup or TrainingSetup(method=Lora(), gradient_accumulation_steps=16),
        workload=workload or Workload(sequence_length=1024),
        device=device,
        budget=budget,
        verdict=verdict,
        verdict_reason="no device was named" if verdict is None else f"a fake verdict: {verdict}",
        available_bytes=available,
        headroom_bytes=None if available is None else available - budget.high_process_bytes,
        runnable=True,
        provenance=ProgramProvenance(
            key="f" * 64, origin="shipped", versions=dict(VERSIONS), basis="traced at 2 and 3 layers"
        ),
    )
    return candidate.model_copy(update=changes)


def make_plan(
    *,
    candidate: Candidate | None = None,
    model: ModelSpec | None = None,
    recipe: TrainingRecipe | None = None,
    data: PlannedData | None = None,
    device: Device | None = None,
    created_at: datetime = NOW,
) -> Plan:
    """A frozen plan on ``make_device()``, with a valid fingerprint."""
    model = model or make_model_spec()
    candidate = candidate or make_candidate(model=model, device=device or make_device())
    recipe = recipe or TrainingRecipe(data="train.jsonl", output_dir="runs/fake")
    data = data or PlannedData(path="train.jsonl", sha256="d" * 64, size_bytes=4096)
    return freeze_plan(candidate, model, recipe, data).model_copy(update={"created_at": created_at})


def make_report(plan: Plan | None = None, *, error_fraction: float = 0.02, **changes: Any) -> RunReport:
    """What a run of ``plan`` might have measured: every phase ``error_fraction`` above its estimate."""
    plan = plan or make_plan()
    budget = plan.budget

    def actual(size_bytes: int) -> int:
        return size_bytes + round(size_bytes * error_fraction)

    peak = next(phase for phase in budget.phases if phase.name == budget.peak_phase)
    report = RunReport(
        plan_fingerprint=plan.fingerprint,
        status="done",
        started_at=NOW,
        ended_at=NOW.replace(hour=4),
        environment={"device": "NVIDIA GeForce RTX 4090", "driver": "590.00"},
        packages=dict(plan.packages),
        measured_by="torch.cuda.max_memory_allocated per phase",
        static={line.component: line.estimate_bytes for line in peak.lines if line.component in STATIC_COMPONENTS},
        phases=tuple(
            MeasuredPhase(name=phase.name, allocated_bytes=actual(phase.allocated_bytes)) for phase in budget.phases
        ),
        peak_allocated_bytes=actual(budget.peak_allocated_bytes),
        peak_reserved_bytes=actual(budget.peak_reserved_bytes),
        process_bytes=actual(budget.process_bytes),
        steps=40,
        first_loss=2.994,
        last_loss=2.147,
        tokens_per_second=1500.0,
        seconds=72.0,
        output_dir="runs/fake",
        saved_bytes=5 * MIB,
    )
    return report.model_copy(update=changes)
