"""No option is hollow: whatever field of a setup or recipe is changed, alone, the worker constructs something else, or
refuses it by name."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.executor.factories import make_budget, make_plan, make_setup, make_tiny_llama, pin, write_jsonl
from vramplan.executor.attempt import Attempt
from vramplan.executor.environment import worker_environment
from vramplan.executor.events import Event
from vramplan.executor.evidence import Evidence
from vramplan.executor.process import Stop
from vramplan.executor.supported import check_supported
from vramplan.executor.train import TrainingRun
from vramplan.planner.errors import VramplanError
from vramplan.planner.methods import (
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
from vramplan.planner.plan import Plan
from vramplan.planner.training_setup import Precision, TrainingRecipe, TrainingSetup

torch = pytest.importorskip("torch")
LOADED = pytest.importorskip("vramplan.executor.guard").LOADED
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

CHAT = "{% for message in messages %}{{ message['content'] }}!{% endfor %}"
ROWS = [
    {"prompt": f"what comes after {number}?", "completion": "and so on, " * (1 + number % 3) + str(number)}
    for number in range(24)
]
NORMS = LnTuning(target_modules=("input_layernorm", "post_attention_layernorm", "norm"))
FACTORS = Ia3(target_modules=("k_proj", "v_proj", "down_proj"), feedforward_modules=("down_proj",))
HOULSBY = Bottleneck(bottleneck_size=8, target_modules=("o_proj", "down_proj"))
METHODS: dict[str, Method] = {
    "full": Full(),
    "lora": Lora(r=4),
    "qlora": Qlora(r=4),
    "layerwise": Layerwise(lower_layers=1),
    "ln-tuning": NORMS,
    "adapter": HOULSBY,
    "ia3": FACTORS,
    "prefix": Prefix(num_virtual_tokens=4),
    "prompt": Prompt(num_virtual_tokens=4),
    "ptuning": Ptuning(num_virtual_tokens=4, encoder_hidden_size=16),
}
_LOW_RANK = {
    "r": 8,
    "lora_alpha": 64,
    "lora_dropout": 0.1,
    "target_modules": ("q_proj",),
    "use_rslora": True,
    "use_dora": True,
    "modules_to_save": ("lm_head",),
    "trainable_token_indices": (5, 6),
    "init_lora_weights": "gaussian",
}
_ANY_BASE = {"quant": "nf4", "double_quant": False}
METHOD_FIELDS: dict[str, dict[str, Any]] = {
    "full": {"trainable_blocks": 1},
    "lora": _LOW_RANK,
    "qlora": {**_LOW_RANK, "quant": "fp4", "double_quant": False},
    "layerwise": {
        "lower_layers": 2,
        "lower_learning_rate": 1e-6,
        "lr_groups": (LrGroup(modules="k_proj", learning_rate=1e-6), LrGroup(modules="norm", learning_rate=1e-5)),
    },
    "ln-tuning": {"target_modules": ("norm",), **_ANY_BASE},
    "adapter": {
        "adapter_kind": "pfeiffer",
        "bottleneck_size": 4,
        "non_linearity": "relu",
        "target_modules": ("down_proj",),
        **_ANY_BASE,
    },
    "ia3": {"target_modules": ("k_proj", "down_proj"), "feedforward_modules": (), **_ANY_BASE},
    "prefix": {"num_virtual_tokens": 5, **_ANY_BASE},
    "prompt": {"num_virtual_tokens": 5, "prompt_tuning_init_text": "what comes", **_ANY_BASE},
    "ptuning": {
        "num_virtual_tokens": 5,
        "encoder_reparameterization_type": "LSTM",
        "encoder_hidden_size": 24,
        **_ANY_BASE,
    },
}
SETUP_FIELDS: dict[str, Any] = {
    "optimizer": "adafactor",
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing": True,
    "attention": "eager",
    "loss": "standard",
    "loop": "trainer",
    "padding": "right",
    "packing": True,
    "kbit_preparation": True,
    "alloc_conf": "",
    "gpus": 2,
    "nodes": 2,
    "sharding": "fsdp",
    "offload": "all",
}
PRECISION_FIELDS: dict[str, Any] = {"dtype": "bf16", "mixed_precision": "bf16", "adapter_dtype": "bf16"}
RECIPE_FIELDS: dict[str, Any] = {
    "learning_rate": 2e-2,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 3.0,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "num_train_epochs": 2.0,
    "max_steps": 7,
    "seed": 43,
    "logging_steps": 2,
    "report_to": "tensorboard",
    "eval_steps": 4,
    "save_steps": 5,
    "save_total_limit": 3,
    "output_dir": "elsewhere",
    "data": "other.jsonl",
    "eval_data": "heldout.jsonl",
    "eval_fraction": 0.25,
    "columns": {"completion": "other"},
    "skip_bad_rows": True,
    "completion_only": False,
    "chat_template": "chat.jinja",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_tiny_llama(folder / "model")
    write_jsonl(folder / "train.jsonl", [{**row, "other": row["completion"] + " or not"} for row in ROWS])
    write_jsonl(folder / "other.jsonl", ROWS[:12])
    write_jsonl(folder / "heldout.jsonl", [{"prompt": "and then?", "completion": "nothing"}] * 4)
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    write_jsonl(folder / "chats.jsonl", [{"messages": messages}] * 12)
    (folder / "chat.jinja").write_text(CHAT)
    return folder


def base_plan(world: Path, setup: TrainingSetup, **recipe: Any) -> Plan:
    plan = make_plan(world, setup=setup, model_path=world / "model", budget=make_budget(), sequence_length=24)
    told = {"output_dir": str(world / "output"), "data": str(world / "train.jsonl"), "max_steps": None, **recipe}
    data = pin(world / "train.jsonl")
    return plan.model_copy(update={"recipe": plan.recipe.model_copy(update=told), "data": data})


@contextmanager
def constructed(plan: Plan) -> Iterator[tuple[Any, list[str]]]:
    """The trainer a worker would call ``train`` on, and what was said on the way."""
    said: list[str] = []

    def hear(event: Event) -> None:
        said.append(getattr(event, "message", ""))

    attempt = Attempt(accept=(LOADED,))
    run = TrainingRun(plan, attempt, Evidence(plan), hear, Stop())
    check_supported(plan)
    train, held_out = run._read_rows()
    trainer = run._make_trainer(train, held_out)
    try:
        run._check_rows(trainer, train)
        yield trainer, said
    finally:
        trainer.meter.close()


def fingerprint(plan: Plan) -> dict[str, Any]:
    """Everything about the live objects that a field could change."""
    with constructed(plan) as (trainer, said):
        trainer.create_optimizer()
        trainer.create_scheduler(100, trainer.optimizer)
        model = trainer.model
        return {
            "trainer": [type(each).__name__ for each in (trainer, trainer.data_collator, trainer.optimizer)],
            "arguments": {name: value for name, value in trainer.args.to_dict().items() if "logging_dir" not in name},
            "modules": repr(model),
            "inside": [
                str(vars(each)[name])
                for each in model.modules()
                for name in ("scaling", "non_linearity")
                if name in vars(each)
            ],
            "attention": model.config._attn_implementation,
            "quantised": [
                (state.quant_type, state.nested)
                for each in model.modules()
                if (state := getattr(getattr(each, "weight", None), "quant_state", None)) is not None
            ],
            "parameters": {
                name: (tuple(each.shape), str(each.dtype), each.requires_grad, float(each.detach().double().sum()))
                for name, each in model.named_parameters()
            },
            "groups": [
                {**{key: value for key, value in group.items() if key != "params"}, "count": len(group["params"])}
                for group in trainer.optimizer.param_groups
            ],
            "rate": [schedule(step) for schedule in trainer.lr_scheduler.lr_lambdas for step in (0, 1, 50)],
            "rows": [list(each or ()) for each in (trainer.train_dataset, trainer.eval_dataset)],
            "order": list(trainer._get_train_sampler()),
            "environment": worker_environment(plan, None, {}),
            "said": said,
        }


def digest(plan: Plan) -> str:
    return hashlib.sha256(json.dumps(fingerprint(plan), sort_keys=True, default=str).encode()).hexdigest()


_KNOWN: dict[str, str] = {}


def known(plan: Plan) -> str:
    key = plan.model_dump_json(include={"setup", "recipe"})
    if key not in _KNOWN:
        _KNOWN[key] = digest(plan)
    return _KNOWN[key]


def assert_changes(before: Plan, after: Plan, words: str) -> None:
    """Another construction, or a refusal that names the field or its option."""
    try:
        changed = digest(after) != known(before)
        why = ""
    except VramplanError as refusal:
        changed, why = False, str(refusal)
    assert changed or words in why, (words, why)


def test_the_same_plan_constructs_the_same_thing(world: Path) -> None:
    plan = base_plan(world, make_setup(Lora(r=4)))
    assert digest(plan) == known(plan)


def test_every_field_has_a_case() -> None:
    assert set(TrainingSetup.model_fields) - {"method", "precision"} <= set(SETUP_FIELDS)
    assert set(Precision.model_fields) <= set(PRECISION_FIELDS)
    assert set(TrainingRecipe.model_fields) <= set(RECIPE_FIELDS)
    for kind in get_args(get_args(Method)[0]):
        name = kind.model_fields["kind"].default
        assert set(kind.model_fields) - {"kind"} <= set(METHOD_FIELDS.get(name, {})), name


@pytest.mark.parametrize("field", [name for name in SETUP_FIELDS if name in TrainingSetup.model_fields])
def test_a_field_of_the_setup_is_constructed_or_refused(field: str, world: Path) -> None:
    changes: dict[str, Any] = {}
    if field == "kbit_preparation":
        changes = {"precision": Precision(dtype="bf16", mixed_precision="bf16", adapter_dtype="bf16")}
    setup = make_setup(Qlora(r=4) if changes else Lora(r=4), **changes)
    changed = setup.model_copy(update={field: SETUP_FIELDS[field]})
    words = {"gpus": "--gpus", "nodes": "--nodes"}.get(field, f"--{field}")
    assert_changes(base_plan(world, setup), base_plan(world, changed), words)


@pytest.mark.parametrize("field", PRECISION_FIELDS)
def test_a_dtype_is_constructed(field: str, world: Path) -> None:
    setup = make_setup(Lora(r=4))
    precision = setup.precision.model_copy(update={field: PRECISION_FIELDS[field]})
    after = base_plan(world, setup.model_copy(update={"precision": precision}))
    assert_changes(base_plan(world, setup), after, field)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        (name, field)
        for name in METHOD_FIELDS
        for field in METHOD_FIELDS[name]
        if field in type(METHODS[name]).model_fields
    ],
)
def test_a_field_of_a_method_is_constructed(name: str, field: str, world: Path) -> None:
    method = METHODS[name]
    if field == "double_quant":
        method = method.model_copy(update={"quant": "nf4"})
    replaced = {"lower_layers": None, "lower_learning_rate": None} if field == "lr_groups" else {}
    changed = method.model_copy(update={field: METHOD_FIELDS[name][field], **replaced})
    assert_changes(base_plan(world, make_setup(method)), base_plan(world, make_setup(changed)), field)


@pytest.mark.parametrize("field", [name for name in RECIPE_FIELDS if name in TrainingRecipe.model_fields])
def test_a_field_of_the_recipe_is_constructed_or_refused(field: str, world: Path) -> None:
    value: Any = RECIPE_FIELDS[field]
    if field in ("output_dir", "data", "eval_data", "chat_template"):
        value = str(world / value)
    before: dict[str, Any] = {"eval_data": str(world / "heldout.jsonl")} if field == "eval_steps" else {}
    plans = [base_plan(world, make_setup(Lora(r=4)), **recipe) for recipe in (before, {**before, field: value})]
    if field == "data":  # without the data that is pinned, the recipe's own path is read
        plans = [plan.model_copy(update={"data": None}) for plan in plans]
    if field == "chat_template":
        pinned = pin(world / "chats.jsonl")
        plans = [plan.model_copy(update={"data": pinned}) for plan in plans]
    if field == "skip_bad_rows":
        bad = world / "bad.jsonl"
        bad.write_text((world / "train.jsonl").read_text() + "{\n")
        plans = [plan.model_copy(update={"data": pin(bad)}) for plan in plans]
        with pytest.raises(VramplanError, match="row 25"):
            digest(plans[0])
        assert len(fingerprint(plans[1])["rows"][0]) == len(ROWS)
        return
    assert_changes(plans[0], plans[1], field)
