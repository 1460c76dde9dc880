"""What no engine can be told, and rules that several engines share."""

from collections.abc import Iterator, Sequence

from vramplan.planner.export.engine import Refusal, Source, flag, only
from vramplan.planner.export.trainer import SCHEDULERS, quantised
from vramplan.planner.methods import quant_of, trains_base
from vramplan.planner.plan import Plan

DATA_FIELDS = {
    "data.path": "the training file",
    "data.sha256": "checked before training",
    "recipe.data": "the training file",
    "recipe.eval_data": "the held-out file",
}
MODEL_FIELDS = {"model.repo_id": "the model", "model.revision": "its revision", "model.path": "its folder"}
SAID_FIELDS = {"setup.padding": "the header", "setup.alloc_conf": "PYTORCH_ALLOC_CONF"}
"""What the price assumes of the rows is said; whether a batch is padded is up to them."""
LORA_FIELDS = {
    "setup.method.r": "lora_r",
    "setup.method.lora_alpha": "lora_alpha",
    "setup.method.lora_dropout": "lora_dropout",
    "setup.method.target_modules": "lora_target_modules",
    "setup.method.modules_to_save": "lora_modules_to_save",
    "setup.method.use_rslora": "use_rslora",
    "setup.method.use_dora": "use_dora",
}


def common(source: Source) -> Iterator[Refusal]:
    """What no engine can be told."""
    plan = source.plan
    yield from only(plan, "workload.task", "causal-lm", because="only causal language models are exported yet")
    yield from only(plan, "setup.loss", "fused", "standard", because="trl's trainer refuses Liger's loss")
    yield from only(plan, "setup.loop", "executor", because="that loop is somebody else's")
    if plan.later_stages:
        because = "an export is one stage"
        nearest = "--method lora, and then --method full --trainable-blocks N on what vramplan merge wrote"
        yield Refusal("later_stages", len(plan.later_stages), because, nearest)
    if plan.model.architecture.endswith("ForConditionalGeneration"):
        because = "a model with a vision or audio tower is not exported yet"
        yield Refusal("model.architecture", plan.model.architecture, because, "a text-only model")
    if plan.setup.method.kind == "adapter":
        because = "bottleneck adapters are vramplan's own: PEFT has none"
        yield Refusal("setup.method.kind", "adapter", because, "--method lora")
    if plan.device is not None and plan.device.kind not in ("cuda", "rocm", "cpu"):
        yield Refusal("device.kind", plan.device.kind, "runs on it are not known", "--device cpu, or a GPU by name")
    path = plan.data.path if plan.data else None
    if path is None:
        yield Refusal("data.path", "", "the plan names no training file", "--data FILE")
    elif not path.endswith(".jsonl"):
        yield Refusal("data.path", path, "JSON lines alone are exported", "--data FILE.jsonl")
    if plan.recipe.eval_data and not plan.recipe.eval_data.endswith(".jsonl"):
        because = "JSON lines alone are exported"
        yield Refusal("recipe.eval_data", plan.recipe.eval_data, because, "--eval-data FILE.jsonl")
    if plan.recipe.data not in (None, path):
        yield Refusal("recipe.data", plan.recipe.data, f"data.path is {path}", f"--data {path}")
    if plan.recipe.eval_steps and not plan.recipe.eval_data:
        yield Refusal(
            "recipe.eval_steps", plan.recipe.eval_steps, "recipe.eval_data names no held-out file", "--eval-data FILE"
        )
    yield from only(plan, "recipe.lr_scheduler_type", *SCHEDULERS, because="transformers has no such scheduler")
    yield from _without_effect(plan)


def _without_effect(plan: Plan) -> Iterator[Refusal]:
    """Settings that mean nothing beside the others."""
    method = plan.setup.method
    named = f"setup.method.kind {method.kind}"
    if trains_base(method):
        yield from only(plan, "setup.precision.adapter_dtype", "fp32", because=f"{named} has no adapter")
    if not quantised(plan):
        yield from only(plan, "setup.kbit_preparation", False, because=f"{named} has no quantised base here")
    if quant_of(method) not in ("nf4", "fp4") and hasattr(method, "double_quant"):
        yield from only(plan, "setup.method.double_quant", True, because="nothing is quantised to 4 bits")


def rows_are_known(source: Source, *kinds: str) -> Iterator[Refusal]:
    """An engine whose config says what the rows are: they must be here to be looked at, and of a kind it has."""
    path = source.plan.data.path if source.plan.data else ""
    if source.row_kind is None:
        yield Refusal(
            "data.path", path, "the file is not here, or its first row has other columns", "export where it is"
        )
    elif source.row_kind not in kinds:
        because = f"it does not read {source.row_kind} rows"
        yield Refusal("data.path", path, because, f"rows with {' or '.join(kinds)}")


def held_out_needs_steps(source: Source) -> Iterator[Refusal]:
    """An engine that evaluates every so many steps and at no other time."""
    recipe = source.plan.recipe
    if recipe.eval_data and not recipe.eval_steps:
        yield Refusal(
            "recipe.eval_data", recipe.eval_data, "it evaluates every recipe.eval_steps alone", "--eval-steps N"
        )


def adapter_dtype_is(source: Source, dtype: str, because: str) -> Iterator[Refusal]:
    """An engine that decides the adapter's dtype by itself."""
    if not trains_base(source.plan.setup.method):
        yield from only(source.plan, "setup.precision.adapter_dtype", dtype, because=because)


def autocast_computes(source: Source) -> Iterator[Refusal]:
    """An engine whose 4-bit matmuls run in the base's dtype, whatever autocast is."""
    precision = source.plan.setup.precision
    if quantised(source.plan) and precision.mixed_precision not in ("no", precision.dtype):
        yield from only(
            source.plan,
            "setup.precision.mixed_precision",
            precision.dtype,
            because="its quantised matmuls run in setup.precision.dtype",
        )


def lora_or_full(source: Source) -> Iterator[Refusal]:
    """An engine that knows these methods alone."""
    yield from only(source.plan, "setup.method.kind", "lora", "qlora", "full", because="it has no such method")


def whole_answers(source: Source) -> Iterator[Refusal]:
    """An engine that learns every answer of a conversation, where the plan's own run learns the last."""
    if source.row_kind == "messages":
        because = "it would learn every answer of a conversation, where the plan learns the last"
        yield from only(source.plan, "recipe.completion_only", False, because=because)


def precision_is_one_of(
    source: Source, combinations: Sequence[tuple[str, str, str]], *, because: str
) -> Iterator[Refusal]:
    """An engine with a few combinations of dtype, autocast and adapter dtype: what stands in the way of the nearest."""
    names = ("dtype", "mixed_precision", "adapter_dtype")
    because = f"{because} for setup.method.kind {source.plan.setup.method.kind}"
    values = tuple(getattr(source.plan.setup.precision, name) for name in names)
    apart = {one: [name for name, a, b in zip(names, one, values, strict=True) if a != b] for one in combinations}
    fewest = min(map(len, apart.values()))
    for combination, others in apart.items():
        for name in others if len(others) == fewest else ():
            field = f"setup.precision.{name}"
            wanted = combination[names.index(name)]
            yield Refusal(field, values[names.index(name)], because, flag(field, wanted))
