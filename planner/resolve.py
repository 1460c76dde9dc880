"""From the options a person gave to a complete setup: defaults, what is derived, and what is contradictory.

Options have their command-line names with underscores (``sequence_length``, ``micro_batch``, ``rank`` ...); absent or
None means not given. The defaults are the design's and each answer prints them with the flag that changes them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from vramplan.planner.attention import choose_attention
from vramplan.planner.candidate import ResolvedOption
from vramplan.planner.contradictions import check_given, flag_of
from vramplan.planner.device import Device
from vramplan.planner.errors import UnsupportedError, UsageError
from vramplan.planner.matrix import cell_of, check_cell
from vramplan.planner.memory.alloc_conf import parse_alloc_conf
from vramplan.planner.method_choice import choose_method, options_of_others
from vramplan.planner.methods import Method, quant_of, virtual_tokens
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.picker import Picker, Settled
from vramplan.planner.precision import resolve_precision
from vramplan.planner.setup_check import check_setup
from vramplan.planner.sharding_choice import choose_sharding
from vramplan.planner.stored_quantised import check_quantization
from vramplan.planner.task_choice import choose_num_labels, choose_target_length
from vramplan.planner.tasks import NO_CHECKPOINTING, NO_FUSED_HEAD, check_task, default_task
from vramplan.planner.training_setup import TrainingRecipe, TrainingSetup
from vramplan.planner.unpriced import refuse_unpriced
from vramplan.planner.workload import RowLengths, Workload

DEFAULT_SEQUENCE_LENGTH = 1024
DEFAULT_SEQUENCES_PER_STEP = 16
_LEARNING_RATES = {
    "full": (2e-5, "trl's SFTConfig, full fine-tuning"),
    "layerwise": (1e-4, "the upper layers'"),
    "bitfit": (4e-4, "among the rates of BitFit, arXiv:2106.10199"),
    "adapter": (3e-4, "among the rates of Houlsby et al., arXiv:1902.00751"),
    "ia3": (3e-3, "IA3, arXiv:2205.05638"),
    "ln-tuning": (2e-4, "LoRA's: none is published for it"),
    "prefix": (1e-2, "PEFT's prefix tuning example"),
    "prompt": (3e-2, "PEFT's prompt tuning example"),
    "ptuning": (1e-3, "PEFT's p-tuning example"),
}
"""Peak rates that published runs of each method used, and where."""
_FIELD_FLAGS = {"r": "--rank", "lora_alpha": "--alpha", "micro_batch_size": "--micro-batch"}


@dataclass(frozen=True)
class Resolved:
    """A complete setup, and every option of it with where it came from."""

    workload: Workload
    setup: TrainingSetup
    recipe: TrainingRecipe
    settled: tuple[Settled, ...]

    @cached_property
    def options(self) -> tuple[ResolvedOption, ...]:
        """How every option came out."""
        return tuple(each.shown() for each in self.settled)


def resolve(
    given: Mapping[str, Any],
    model: ModelSpec,
    device: Device | None,
    *,
    num_examples: int | None = None,
    rows: RowLengths | None = None,
) -> Resolved:
    """Fill in everything that was not given.

    Args:
        num_examples: rows of the training file, where there is one.
        rows: how long its rows are, where that was measured; a longer sequence length changes nothing.

    Raises:
        UsageError: an option makes no sense, or contradicts another, the model or the device.
        UnsupportedError: an option, or the model's checkpoint, is understood but not priced yet.
    """
    given = _normal(given)
    check_given(given)
    refuse_unpriced(given)
    check_quantization(model)
    pick = Picker(given)
    try:
        return _resolve(pick, model, device, num_examples, rows)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][-1]) if first["loc"] else ""
        raise UsageError(
            f"{_FIELD_FLAGS.get(field, flag_of(field))} {str(first['input'])[:40]} is not possible: {first['msg']}"
        ) from error


def given_for_method(given: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The same wishes for one of several methods: what only another method can have is left out."""
    dropped = options_of_others(method)
    kept = {name: value for name, value in given.items() if name not in dropped}
    return kept | {"method": method}


def slug(model: ModelSpec, method: Method) -> str:
    """A folder name for runs of a model by a method.

    >>> re.sub(r"[^a-z0-9.]+", "-", "Llama 3.1/8B".lower())
    'llama-3.1-8b'
    """
    name = re.sub(r"[^a-z0-9.]+", "-", model.repo_id.rpartition("/")[2].lower()).strip("-.") or "model"
    rank = getattr(method, "r", None)
    return f"{name[:80]}-{method.kind}" + ("" if rank is None else f"-r{rank}")


def _normal(given: Mapping[str, Any]) -> dict[str, Any]:
    """Only what was given, the method under its own name: ``bottleneck`` is ``adapter``, quantised LoRA is QLoRA."""
    normal = {name: value for name, value in given.items() if value is not None}
    if normal.get("method") == "bottleneck":
        normal["method"] = "adapter"
    if "quant" in normal and normal.get("method", "lora") == "lora":
        normal["method"] = "qlora"
    return normal


def _resolve(
    pick: Picker, model: ModelSpec, device: Device | None, num_examples: int | None, rows: RowLengths | None
) -> Resolved:
    method = choose_method(pick, model)
    if quant_of(method) is not None and device is not None and device.bnb_4bit is False:
        raise UnsupportedError(f"{device.name} has no 4-bit kernels in bitsandbytes", remedy="use --method lora")
    task = pick.take("task", default_task(model), derived=f"what a {model.architecture} is trained for")
    check_task(model, task)
    sequence_length = _sequence_length(pick, model, rows, virtual_tokens(method))
    ranks = choose_sharding(pick, method)
    world = ranks.get("gpus", 1) * ranks.get("nodes", 1)
    micro_batch, accumulation = _step(pick, sequence_length, world)
    loop = pick.take("loop", "executor")
    epochs = pick.take("num_train_epochs", 1.0)
    workload = Workload(
        task=task,
        num_labels=choose_num_labels(pick, task),
        target_length=choose_target_length(pick, model, task, rows),
        sequence_length=sequence_length,
        sequences_per_step=micro_batch * accumulation * world,
        valid_label_fraction=_valid_labels(pick, sequence_length, rows),
        num_examples=num_examples,
        num_train_epochs=epochs,
        length_quantiles=_quantiles(pick, sequence_length, rows),
    )
    setup = TrainingSetup(
        method=method,
        precision=resolve_precision(pick, method, loop, device, task),
        optimizer=pick.take("optimizer", "adamw_torch_fused"),
        micro_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=_checkpointing(pick, method, model),
        attention=choose_attention(pick, model, device),
        loss=_loss(pick, loop, workload, model),
        loop=loop,
        padding=_padding(pick, rows, sequence_length, micro_batch),
        packing=pick.take("packing", False),
        kbit_preparation=pick.take("kbit_preparation", False),
        alloc_conf=_alloc_conf(pick, loop, device),
        **ranks,
    )
    recipe = _recipe(pick, model, method, epochs)
    check_setup(setup, recipe)
    check_cell(cell_of(setup, workload, model_type=model.model_type, device=device, model=model))
    return Resolved(workload, setup, recipe, tuple(pick.settled))


def _checkpointing(pick: Picker, method: Method, model: ModelSpec) -> bool:
    if model.model_type in NO_CHECKPOINTING:
        if pick.given("gradient_checkpointing"):
            raise UsageError(
                f"--gradient-checkpointing: transformers' {model.architecture} has none",
                remedy="leave --gradient-checkpointing out",
            )
        return bool(pick.settle("gradient_checkpointing", False, f"{model.architecture} has none"))
    if method.kind == "prefix":
        return bool(pick.settle("gradient_checkpointing", False, "checkpointed layers drop a prefix"))
    return bool(pick.take("gradient_checkpointing", True))


def _sequence_length(pick: Picker, model: ModelSpec, rows: RowLengths | None, num_virtual_tokens: int) -> int:
    limit = model.context_length
    asked = pick.given("sequence_length")
    if num_virtual_tokens and limit is not None:
        limit -= num_virtual_tokens
        if (asked or 2) > limit:
            raise UsageError(
                f"{asked or 2} tokens and {num_virtual_tokens} virtual ones are beyond the "
                f"{model.context_length} {model.repo_id} is made for",
                remedy=f"use --sequence-length {limit} or less" if limit > 1 else "use fewer --virtual-tokens",
            )
    if asked is not None and limit is not None and asked > limit:
        raise UsageError(
            f"--sequence-length {asked} is beyond the {limit} tokens {model.repo_id} is made for",
            remedy=f"use --sequence-length {limit} or less",
        )
    if rows is not None and not pick.given("packing"):
        reach = rows.longest_row if limit is None else min(rows.longest_row, limit)
        if asked is None or reach < asked:
            guessed = ", guessed from its bytes" if rows.estimated_because else ""
            cut = f", cut at the model's limit: it has {rows.longest_row}" if reach < rows.longest_row else ""
            spare = "" if asked is None else f"; {asked} were asked for"
            return int(pick.settle("sequence_length", reach, f"the longest row of the data{guessed}{cut}{spare}"))
    wanted = asked or DEFAULT_SEQUENCE_LENGTH
    if limit is not None and limit < wanted:
        return int(pick.take("sequence_length", limit, derived="the model's limit"))
    return int(pick.take("sequence_length", wanted))


def _quantiles(pick: Picker, sequence_length: int, rows: RowLengths | None) -> tuple[int, ...]:
    """The data's row lengths after truncation, where batches differ in length."""
    if rows is None or pick.given("packing"):
        return ()
    cut = tuple(min(length, sequence_length) for length in rows.quantiles)
    return cut if len(set(cut)) > 1 else ()


def _padding(pick: Picker, rows: RowLengths | None, sequence_length: int, micro_batch: int) -> str:
    """Rows of several lengths in one micro batch are padded, and attention gets a mask."""
    varied = rows is not None and bool(rows.quantiles) and rows.quantiles[0] < sequence_length
    if varied and micro_batch > 1 and not pick.given("packing"):
        return str(pick.take("padding", "right", derived="the data's rows differ in length"))
    return str(pick.take("padding", "none"))


def _valid_labels(pick: Picker, sequence_length: int, rows: RowLengths | None) -> float:
    """The largest share of a row's next tokens that carry loss: all of them, unless only completions do."""
    most = None if rows is None else rows.longest_completion
    if most is None or pick.given("completion_only") is False or pick.given("packing") or most >= sequence_length - 1:
        return float(pick.take("valid_labels", 1.0))
    return float(pick.take("valid_labels", most / (sequence_length - 1), derived="the longest completion of the data"))


def _step(pick: Picker, sequence_length: int, world: int) -> tuple[int, int]:
    """Micro batch and accumulation of each rank, so that a step of all holds the sequences (or tokens) asked for."""
    micro_batch = int(pick.take("micro_batch", 1))
    accumulation = pick.given("gradient_accumulation_steps")
    ranks = f" x {world} GPUs" if world > 1 else ""
    if accumulation is not None:
        pick.take("gradient_accumulation_steps", accumulation)
        pick.settle("sequences_per_step", micro_batch * accumulation * world, f"{micro_batch} x {accumulation}{ranks}")
        return micro_batch, int(accumulation)
    tokens = pick.given("tokens_per_step")
    wanted = DEFAULT_SEQUENCES_PER_STEP
    if tokens is not None:
        wanted = max(1, (pick.take("tokens_per_step", tokens) + sequence_length // 2) // sequence_length)
    accumulation = -(-wanted // (micro_batch * world))
    because = f"{wanted} sequences a step / micro batch {micro_batch}{ranks}"
    pick.settle("gradient_accumulation_steps", accumulation, because)
    held = micro_batch * accumulation * world
    if tokens is None and held == wanted:
        pick.take("sequences_per_step", wanted)
    else:
        pick.settle("sequences_per_step", held, f"{micro_batch} x {accumulation}{ranks}")
    return micro_batch, accumulation


def _loss(pick: Picker, loop: str, workload: Workload, model: ModelSpec) -> str:
    without = f"trl's fused head finds no base model in {model.architecture}"
    fuses = model.architecture not in NO_FUSED_HEAD
    if pick.given("loss") == "fused" and workload.task == "causal-lm" and not fuses:
        raise UsageError(f"--loss fused: {without}", remedy="use --loss standard")
    if pick.given("loss") not in (None, "auto"):
        return str(pick.take("loss", "standard"))
    if workload.task == "causal-lm" and loop == "executor":
        return str(pick.settle("loss", *(("fused", "what trl's trainer runs") if fuses else ("standard", without))))
    if workload.task != "causal-lm":
        return str(pick.settle("loss", "standard", "the model's own, as transformers' Trainer has it"))
    return str(pick.settle("loss", "standard", f"what the {loop} loop runs"))


def _alloc_conf(pick: Picker, loop: str, device: Device | None) -> str:
    if loop == "executor" and device is not None and device.wsl:  # pytorch/pytorch#192330
        text = str(pick.take("alloc_conf", "", derived="expandable segments may fail under WSL"))
    elif loop == "executor" and (device is None or device.kind != "cpu"):
        text = str(pick.take("alloc_conf", "expandable_segments:True", because="what our executor sets"))
    else:
        reason = "a CPU has no caching allocator" if loop == "executor" else f"the {loop} loop sets none"
        text = str(pick.take("alloc_conf", "", derived=reason))
    parse_alloc_conf(text)
    return text


def _recipe(pick: Picker, model: ModelSpec, method: Method, epochs: float) -> TrainingRecipe:
    rate, source = _LEARNING_RATES.get(method.kind, (2e-4, "QLoRA, arXiv:2305.14314, table 9"))
    return TrainingRecipe(
        learning_rate=pick.take("learning_rate", rate, because=source),
        lr_scheduler_type=pick.take("lr_scheduler_type", "linear"),
        warmup_steps=pick.take("warmup_steps", 0.0),
        weight_decay=pick.take("weight_decay", 0.0),
        max_grad_norm=pick.take("max_grad_norm", 1.0),
        num_train_epochs=epochs,
        max_steps=pick.take("max_steps", None),
        seed=pick.take("seed", 42),
        logging_steps=pick.take("logging_steps", 1),
        report_to=pick.take("report_to", "none"),
        eval_steps=pick.take("eval_steps", None),
        save_steps=pick.take("save_steps", None),
        save_total_limit=pick.take("save_total_limit", 2),
        output_dir=pick.take("output_dir", f"runs/{slug(model, method)}/model", derived="model and method"),
        data=pick.take("data", None),
        eval_data=pick.take("eval_data", None),
        eval_fraction=pick.take("eval_fraction", 0.0),
        columns=pick.take("columns", {}),
        chat_template=pick.take("chat_template", None),
        skip_bad_rows=pick.take("skip_bad_rows", False),
        completion_only=pick.take("completion_only", True),
    )
