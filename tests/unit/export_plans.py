"""Plans that exports are tried on, and every one that differs from them in a single field."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from tests.fakes import make_candidate, make_device, make_plan
from vramplan.planner.export.engine import Source, choices
from vramplan.planner.methods import (
    Bitfit,
    Bottleneck,
    Full,
    Ia3,
    Layerwise,
    LnTuning,
    Lora,
    LrGroup,
    Method,
    Prefix,
    Prompt,
    Ptuning,
    Qlora,
)
from vramplan.planner.plan import Plan, PlannedData
from vramplan.planner.training_setup import Precision, TrainingRecipe, TrainingSetup

METHODS: tuple[Method, ...] = (
    Full(),
    Lora(target_modules=("q_proj", "v_proj"), modules_to_save=("embed_tokens",)),
    Qlora(),
    Qlora(quant="int8", target_modules=("q_proj",)),
    Layerwise(),
    Layerwise(
        lower_layers=None,
        lower_learning_rate=None,
        lr_groups=(
            LrGroup(modules="layers.0-15", learning_rate=5e-6),
            LrGroup(modules="lm_head", learning_rate=2e-5),
        ),
    ),
    Bitfit(),
    LnTuning(target_modules=("norm",)),
    Ia3(target_modules=("k_proj", "down_proj"), feedforward_modules=("down_proj",)),
    Prefix(),
    Prompt(prompt_tuning_init_text="Answer:"),
    Ptuning(encoder_hidden_size=64),
    Bottleneck(target_modules=("o_proj", "down_proj")),
)
RANKED = {
    "script": {"gpus": 2, "nodes": 3},
    "accelerate": {"gpus": 2, "nodes": 3},
    "torchrun": {"gpus": 2, "nodes": 3},
    "slurm": {"gpus": 2, "nodes": 3},
    "skypilot": {"gpus": 2, "nodes": 3},
    "kubernetes": {"gpus": 2},
    "pytorchjob": {"gpus": 2, "nodes": 3},
}
"""How many processes what starts the script can start."""
BY_ENGINE = {"script": METHODS[:-1], "axolotl": METHODS[:4], "llamafactory": METHODS[:4], "trl": METHODS[:4]}
"""Methods each trainer has; the script has all but the last, and what starts it takes no notice of them."""


def source(engine: str, method: Method | None = None, **changes: Any) -> Source:
    """A plan that nothing is refused of, and what its rows are."""
    method = method or METHODS[1]
    quantised = getattr(method, "quant", None) is not None
    base_trains = isinstance(method, Full | Layerwise | Bitfit)
    setup: dict[str, Any] = {
        "method": method,
        "precision": Precision(dtype="bf16", mixed_precision="bf16", adapter_dtype="fp32"),
        "gradient_accumulation_steps": 4,
        "gradient_checkpointing": method.kind != "prefix",
        "loss": "standard" if engine in ("axolotl", "llamafactory") else "fused",
        "attention": "flash_attention_2" if engine == "axolotl" and base_trains else "sdpa",
    }
    if engine == "trl" and quantised:
        setup["precision"] = Precision(dtype="bf16", mixed_precision="bf16", adapter_dtype="bf16")
    if engine == "llamafactory" and base_trains:
        setup["precision"] = Precision(dtype="bf16", mixed_precision="no")
    setup |= changes.pop("setup", {})
    recipe = {
        "data": "rows/train.jsonl",
        "eval_data": "rows/held out.jsonl",
        "eval_steps": 10,
        "save_steps": 20,
        "max_steps": 100,
        "output_dir": "runs/fake",
    } | changes.pop("recipe", {})
    device = changes.pop("device", None) or make_device(profile="NVIDIA GeForce RTX 4090")
    data = PlannedData(path=recipe["data"], sha256="d" * 64, size_bytes=4096)
    candidate = make_candidate(setup=TrainingSetup(**setup), device=device)
    plan = make_plan(candidate=candidate, recipe=TrainingRecipe(**recipe), data=data)
    kind = changes.pop("row_kind", "messages" if engine == "llamafactory" else "prompt-completion")
    return Source(plan.model_copy(update=changes), kind)


def neighbours(plan: Plan) -> Iterator[tuple[str, Any, Plan]]:
    """Every plan that differs from this one in one chosen field: (field, its value there, plan).

    The fingerprint stays: an export that changes only because it names the plan would prove nothing.
    """
    for field in choices(plan):
        if field in ("device.kind", "setup.method.kind"):
            continue
        for value, changed in _with_other_values(plan, field.split(".")):
            if (field, value) != ("recipe.data", None):  # the same file, which data.path pins
                yield field, value, changed
    for method in METHODS:
        if method.kind != plan.setup.method.kind:
            setup = plan.setup.model_copy(update={"method": method})
            yield "setup.method.kind", method.kind, plan.model_copy(update={"setup": setup})


def _with_other_values(value: BaseModel, path: list[str]) -> Iterator[tuple[Any, Any]]:
    name, *deeper = path
    if deeper:
        inner = getattr(value, name)
        for other, changed in _with_other_values(inner, deeper):
            yield other, value.model_copy(update={name: changed})
        return
    before = getattr(value, name)
    tried: list[Any] = [before]
    for other in _values(type(value).model_fields[name].annotation):
        if other in tried and type(other) is not bool:
            continue
        tried.append(other)
        try:
            changed = type(value).model_validate(value.model_dump() | {name: other}, strict=True)
        except ValidationError:
            continue
        if getattr(changed, name) != before:
            yield other, changed


def _values(annotation: Any) -> Iterator[Any]:
    """Values to try for a field: every literal of its type, and plain ones of every type."""
    yield from _literals(annotation)
    yield from (
        True,
        False,
        2,
        3,
        0.25,
        7.5,
        "other",
        "other.jsonl",
        ("gate_proj",),
        (3, 5),
        "gaussian",
        {"text": "body"},
        (LrGroup(modules="norm", learning_rate=2e-5),),
        None,
    )


def _literals(annotation: Any) -> Iterator[Any]:
    for inner in get_args(annotation):
        if isinstance(inner, str | int | bool):
            yield inner
        else:
            yield from _literals(inner)
