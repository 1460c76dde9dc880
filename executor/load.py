"""The planned model and tokenizer, from a local folder or the pinned revision: safetensors only, no remote code."""

from collections.abc import Sequence
from typing import Any

from vramplan.executor.failure import first_line
from vramplan.executor.methods import quantized
from vramplan.executor.methods.attach import attach
from vramplan.executor.torch_dtypes import torch_dtype
from vramplan.planner.errors import ModelMissingError, UnsupportedError
from vramplan.planner.export.ranks import sends_shards
from vramplan.planner.methods import quant_of
from vramplan.planner.plan import Plan, PlannedModel
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.workload import Task


def source(model: PlannedModel) -> str:
    """What ``from_pretrained`` is given: the folder when there is one, else the Hub id."""
    return model.path or model.repo_id


def device_map(plan: Plan, device: str) -> dict[str, Any] | None:
    """Where a process loads the model; what FSDP2 shards it moves to the GPU by itself, a quantised base from the host.
    DeepSpeed's third stage cuts what it finds in host memory.

    Args:
        device: this process's.
    """
    if plan.setup.sharding == "zero3":
        return {"": "cpu"}
    if plan.setup.sharding != "fsdp":
        return {"": device}
    return None if sends_shards(plan) else {"": "cpu"}


def planned_config(model: PlannedModel) -> Any:
    """config.json, as transformers reads it."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(source(model), trust_remote_code=False, **_origin(model))


def load_tokenizer(model: PlannedModel) -> Any:
    """The model's tokenizer, with a pad token.

    Raises:
        ModelMissingError: there is no tokenizer beside the weights.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source(model), trust_remote_code=False, **_origin(model))
    except (OSError, ValueError) as error:
        raise ModelMissingError(
            f"no usable tokenizer for {model.repo_id} in {source(model)}", remedy="save the tokenizer beside the model"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    model: PlannedModel,
    setup: TrainingSetup,
    *,
    device_map: dict[str, Any] | None,
    task: Task = "causal-lm",
    labels: Sequence[str] = (),
) -> Any:
    """The planned model on its device, wrapped for the planned method, ready for the trainer.

    Args:
        labels: a classifier's classes, by id.

    Raises:
        ModelMissingError: no safetensors weights at that place.
        UnsupportedError: the architecture found is not the one that was priced, or lacks the method's targets.
    """
    base = load_base(model, setup, device_map=device_map, task=task, labels=labels)
    base.config.use_cache = False
    return attach(base, setup, tokenizer=source(model))


def load_base(
    model: PlannedModel,
    setup: TrainingSetup,
    *,
    device_map: dict[str, Any] | None,
    task: Task = "causal-lm",
    labels: Sequence[str] = (),
) -> Any:
    """The planned model without its method, quantised as planned.

    Args:
        labels: a classifier's classes, by id. A checkpoint without a head for so many gets a new one, random.

    Raises:
        ModelMissingError: no safetensors weights at that place.
        UnsupportedError: the architecture found is not the one that was priced.
    """
    quantised = quant_of(setup.method) is not None
    quantization = {"quantization_config": quantized.quantization_config(setup, task)} if quantised else {}
    try:
        base, found = task_class(task).from_pretrained(
            source(model),
            dtype=torch_dtype(setup.precision.dtype),
            attn_implementation=_attention(model, setup),
            device_map=device_map,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **_origin(model),
            **quantization,
            **(_classes(labels) if task == "classification" else {}),
        )
    except OSError as error:
        raise ModelMissingError(
            f"cannot load {model.repo_id} from {source(model)}: {first_line(error)}",
            remedy="the folder (or the pinned revision) must hold config.json and safetensors weights",
        ) from error
    if type(base).__name__ != model.architecture:
        raise UnsupportedError(
            f"the plan was priced for {model.architecture}, but {source(model)} holds {type(base).__name__}",
            remedy="plan again for this model",
        )
    _check_loaded(base, found, task, source(model))
    return base


def task_class(task: Task) -> Any:
    """transformers' auto class of a task (planner/tasks.py)."""
    import transformers

    return {
        "causal-lm": transformers.AutoModelForCausalLM,
        "classification": transformers.AutoModelForSequenceClassification,
        "seq2seq": transformers.AutoModelForSeq2SeqLM,
    }[task]


def _classes(labels: Sequence[str]) -> dict[str, Any]:
    """One class a row, named; another head in the checkpoint is replaced."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
        "problem_type": "single_label_classification",
        "ignore_mismatched_sizes": True,
    }


def _check_loaded(base: Any, found: dict[str, Any], task: Task, where: str) -> None:
    """Only a classifier's head may be new: what is outside the bare model, and the pooler.

    Raises:
        ModelMissingError: another weight is missing, or has another shape.
    """
    new = [*found["missing_keys"], *(mismatched[0] for mismatched in found["mismatched_keys"])]
    for name in new:
        in_head = not name.startswith(f"{base.base_model_prefix}.") or ".pooler." in name
        if task != "classification" or not in_head:
            raise ModelMissingError(
                f"the weights in {where} lack {name}, or hold it in another shape",
                remedy="use the config.json that belongs to these weights",
            )


def _attention(model: PlannedModel, setup: TrainingSetup) -> str | dict[str, str]:
    """The planned attention of the language model; towers, which no row of text runs through, may not have it."""
    import transformers

    from vramplan.planner.trace.skeleton import attention_by_part
    from vramplan.planner.trace.weights import config_of_class

    config = planned_config(model)
    planned = getattr(transformers, model.architecture, None)
    return attention_by_part(config if planned is None else config_of_class(config, planned), setup.attention)


def _origin(model: PlannedModel) -> dict[str, Any]:
    return {"local_files_only": True} if model.path else {"revision": model.revision}
