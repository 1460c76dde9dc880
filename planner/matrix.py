"""What goes together: method x task x checkpointing x packing x quantisation x precision x what the device can do.

One table of refusals. The planner asks it before a price, the executor before a run: what can be chosen is what runs.
Each rule names what happens without it, and the nearest setup that is allowed.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from vramplan.planner.device import Device, DeviceKind
from vramplan.planner.dtypes import FloatDtype
from vramplan.planner.errors import UnsupportedError
from vramplan.planner.methods import Quant, quant_of
from vramplan.planner.model_spec import ModelSpec, Weight
from vramplan.planner.tasks import NO_CHECKPOINTING, TOKEN_TYPED
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.values import Value
from vramplan.planner.workload import Task, Workload

_BASE_TRAINS = ("full", "layerwise", "bitfit")
_PROMPTS = ("prefix", "prompt", "ptuning")
_HALF = ("bf16", "fp16")


class Cell(Value):
    """One place in the matrix. What is not known is None, and no rule refuses for it."""

    method: str
    task: Task = "causal-lm"
    gradient_checkpointing: bool = True
    packing: bool = False
    quant: Quant | None = None
    dtype: FloatDtype = "fp32"
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    adapter_dtype: FloatDtype = "fp32"
    micro_batch_size: int = 1
    device: DeviceKind | None = None
    bf16_native: bool | None = None
    bnb_4bit: bool | None = None
    has_biases: bool | None = None
    """The model has bias terms."""
    finds_last_token: bool | None = None
    """A classifier that reads its last token, which it looks for by the pad token's id: a decoder's."""
    keeps_fp32: bool | None = None
    """transformers holds linears of the model's layers in fp32, and so does not quantise them."""
    layer_norms: bool | None = None
    """Its norms are torch's LayerNorm, which have biases, and not of the kind that computes in fp32 by itself."""
    checkpoints: bool | None = None
    """The model's class supports gradient checkpointing."""


class Rule(NamedTuple):
    """One kind of cell that is refused."""

    name: str
    refuses: Callable[[Cell], bool]
    otherwise: Literal["breaks", "wrong", "unpriced"]
    """What a run of it would be: an exception, another computation than was asked for, or one nobody has counted."""
    reason: str
    instead: dict[str, Any]
    """The nearest allowed cell: the fields to change."""

    def words(self, cell: Cell) -> str:
        """The reason, with the cell's own values."""
        return self.reason.format(**cell.model_dump())

    def remedy(self) -> str:
        """The flags of the nearest allowed cell."""
        return f"use {' '.join(_flag(name, value) for name, value in self.instead.items())}"


RULES: tuple[Rule, ...] = (
    Rule(
        "a quantised base does not train",
        lambda cell: cell.method in _BASE_TRAINS and cell.quant is not None,
        "breaks",
        "--method {method} trains the base's own weights, and {quant} weights have no gradient",
        {"method": "qlora"},
    ),
    Rule(
        "LoRA on a quantised base is QLoRA",
        lambda cell: (cell.method == "lora") == (cell.quant is not None) and cell.method in ("lora", "qlora"),
        "breaks",
        "--method {method} with a base in {quant}: quantised LoRA is called qlora, and qlora is always quantised",
        {"method": "qlora", "quant": "nf4"},
    ),
    Rule(
        "a checkpointed layer drops a prefix",
        lambda cell: cell.method == "prefix" and cell.gradient_checkpointing,
        "breaks",
        "--method prefix with --gradient-checkpointing: a checkpointed layer drops the prefix's keys and values, and "
        "PEFT refuses the pair",
        {"gradient_checkpointing": False},
    ),
    Rule(
        "one prefix for several documents",
        lambda cell: cell.method in _PROMPTS and cell.packing,
        "wrong",
        "--method {method} with --packing: a packed row holds several examples but would get one set of virtual tokens",
        {"packing": False},
    ),
    Rule(
        "only trl packs",
        lambda cell: cell.packing and cell.task != "causal-lm",
        "breaks",
        "--packing with --task {task}: packing is trl's, for causal language models; a row of {task} has one answer",
        {"packing": False},
    ),
    Rule(
        "the last token cannot be found",
        lambda cell: (
            cell.method in ("prompt", "ptuning")
            and cell.task == "classification"
            and cell.finds_last_token is True
            and cell.micro_batch_size > 1
        ),
        "wrong",
        "--method {method} with --micro-batch {micro_batch_size}: with virtual tokens a decoder's classifier cannot "
        "see which tokens are padding, and reads a pad token instead of the last one",
        {"micro_batch_size": 1},
    ),
    Rule(
        "nothing for BitFit to train",
        lambda cell: cell.method == "bitfit" and cell.has_biases is False,
        "breaks",
        "--method bitfit: the model has no bias terms, which is all that BitFit trains",
        {"method": "ln-tuning"},
    ),
    Rule(
        "no checkpointing in this class",
        lambda cell: cell.gradient_checkpointing and cell.checkpoints is False,
        "breaks",
        "--gradient-checkpointing: transformers' class of this model has none",
        {"gradient_checkpointing": False},
    ),
    Rule(
        "fp16 weights do not train",
        lambda cell: cell.method in _BASE_TRAINS and cell.dtype == "fp16",
        "breaks",
        "--dtype fp16 with --method {method}: fp16 weights cannot be trained, their gradients cannot be unscaled",
        {"dtype": "fp32", "mixed_precision": "fp16"},
    ),
    Rule(
        "two half precisions",
        lambda cell: {cell.dtype, cell.mixed_precision} == set(_HALF),
        "wrong",
        "--dtype {dtype} with --mixed-precision {mixed_precision}: the two half precisions do not mix",
        {"dtype": "fp32"},
    ),
    Rule(
        "bf16 gradients under a scaler",
        lambda cell: (
            cell.method not in _BASE_TRAINS and cell.adapter_dtype == "bf16" and cell.mixed_precision == "fp16"
        ),
        "breaks",
        "--adapter-dtype bf16 under fp16 autocast: a gradient scaler cannot unscale bf16 gradients",
        {"adapter_dtype": "fp32"},
    ),
    Rule(
        "no fp16 on a CPU",
        lambda cell: cell.device == "cpu" and "fp16" in (cell.dtype, cell.mixed_precision),
        "wrong",
        "fp16 is not trained on a CPU: nothing scales its gradients there, and small ones become zero",
        {"dtype": "fp32", "mixed_precision": "no"},
    ),
    Rule(
        "no bf16 on this device",
        lambda cell: cell.bf16_native is False and "bf16" in (cell.dtype, cell.mixed_precision),
        "breaks",
        "this device has no bf16",
        {"dtype": "fp32", "mixed_precision": "fp16"},
    ),
    Rule(
        "no 4-bit kernels on this device",
        lambda cell: cell.quant is not None and cell.bnb_4bit is False,
        "breaks",
        "this device has no kernels of bitsandbytes for {quant}",
        {"method": "lora", "quant": None},
    ),
    Rule(
        "linears that are never quantised",
        lambda cell: cell.quant is not None and cell.keeps_fp32 is True,
        "unpriced",
        "--quant {quant}: transformers keeps the feed-forward outputs of this model in fp32 and does not quantise "
        "them, which is not priced",
        {"method": "lora", "quant": None},
    ),
    Rule(
        "IA3's fp32 keys beside half-precision queries",
        lambda cell: cell.method == "ia3" and cell.quant is not None and _plain_half(cell),
        "breaks",
        "--method ia3 on a quantised {dtype} base without autocast: its keys would be fp32, its queries not",
        {"mixed_precision": "bf16", "dtype": "bf16"},
    ),
    Rule(
        "IA3's fp32 outputs before a half-precision LayerNorm",
        lambda cell: (
            cell.method == "ia3"
            and cell.quant in ("nf4", "fp4")
            and cell.dtype in _HALF
            and cell.device == "cpu"
            and cell.layer_norms is True
        ),
        "breaks",
        "--method ia3 on a {quant} base in {dtype}, on a CPU: what its factors scale is fp32, and a CPU's LayerNorm "
        "takes no fp32 rows with {dtype} weights",
        {"dtype": "fp32", "mixed_precision": "no"},
    ),
    Rule(
        "a head in another dtype than its base",
        lambda cell: (
            cell.task == "classification"
            and cell.method not in _BASE_TRAINS
            and cell.mixed_precision == "no"
            and cell.adapter_dtype != cell.dtype
        ),
        "breaks",
        "--task classification with --method {method}: the head trains in {adapter_dtype} and a {dtype} base without "
        "autocast hands it {dtype}",
        {"mixed_precision": "bf16", "dtype": "bf16"},
    ),
)


def refusal(cell: Cell) -> Rule | None:
    """The first rule that refuses a cell; None where it is allowed."""
    return next(refusals(cell), None)


def refusals(cell: Cell) -> Iterator[Rule]:
    """Every rule that refuses a cell."""
    return (rule for rule in RULES if rule.refuses(cell))


def nearest(cell: Cell) -> Cell:
    """The allowed cell that following each refusal's advice leads to."""
    for _ in RULES:
        rule = refusal(cell)
        if rule is None:
            break
        cell = cell.model_copy(update=rule.instead)
        if cell.method in _BASE_TRAINS or cell.method == "lora":
            cell = cell.model_copy(update={"quant": None})
    return cell


def check_cell(cell: Cell) -> None:
    """Refuse what does not go together.

    Raises:
        UnsupportedError: with the reason and the nearest setup that is allowed.
    """
    rule = refusal(cell)
    if rule is not None:
        raise UnsupportedError(rule.words(cell), remedy=rule.remedy())


def cell_of(
    setup: TrainingSetup,
    workload: Workload,
    *,
    model_type: str,
    device: Device | None = None,
    model: ModelSpec | None = None,
) -> Cell:
    """Where a setup stands in the matrix.

    Args:
        model: its weights, where they are at hand.
    """
    return Cell(
        method=setup.method.kind,
        task=workload.task,
        gradient_checkpointing=setup.gradient_checkpointing,
        packing=setup.packing,
        quant=quant_of(setup.method),
        dtype=setup.precision.dtype,
        mixed_precision=setup.precision.mixed_precision,
        adapter_dtype=setup.precision.adapter_dtype,
        micro_batch_size=setup.micro_batch_size,
        device=device.kind if device else None,
        bf16_native=device.bf16_native if device else None,
        bnb_4bit=device.bnb_4bit if device else None,
        has_biases=None if model is None else any(weight.name.endswith("bias") for weight in model.weights),
        finds_last_token=model_type not in _READ_FIRST,
        keeps_fp32=model_type in _KEEPS_FP32,
        layer_norms=None if model is None else any(_is_norm_bias(weight) for weight in model.weights),
        checkpoints=model_type not in NO_CHECKPOINTING,
    )


def _is_norm_bias(weight: Weight) -> bool:
    return weight.module == "norm" and weight.name.endswith("bias")


_READ_FIRST = TOKEN_TYPED | {"roberta", "distilbert", "modernbert", "mpnet", "camembert", "xlm-roberta", "bart"}
"""Types whose classifier reads the first token, or pools."""


_KEEPS_FP32 = frozenset(("t5", "mt5", "umt5", "udop", "pop2piano"))
"""Types whose classes have ``wo`` in _keep_in_fp32_modules (transformers 5.23)."""


def _plain_half(cell: Cell) -> bool:
    return cell.dtype in _HALF and cell.mixed_precision == "no"


_FLAGS = {"micro_batch_size": "--micro-batch"}


def _flag(name: str, value: Any) -> str:
    flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
    if isinstance(value, bool):
        return flag if value else f"--no-{flag.removeprefix('--')}"
    return f"no {flag}" if value is None else f"{flag} {value}"
