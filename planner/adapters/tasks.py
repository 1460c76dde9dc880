"""A model under the class its task trains: other head, other weights (planner/tasks.py)."""

from typing import Any

from vramplan.planner.adapters import catalogue
from vramplan.planner.adapters.transformers_weights import ask_transformers
from vramplan.planner.errors import UnsupportedError
from vramplan.planner.model_spec import ModelSpec, Weight
from vramplan.planner.tasks import CLASSIFIER, DEFAULT_NUM_LABELS, default_task, task_of
from vramplan.planner.weight_rows import weights_of
from vramplan.planner.weight_templates import FAMILIES
from vramplan.planner.workload import Task


def model_for_task(model: ModelSpec, task: Task | None = None, num_labels: int | None = None) -> ModelSpec:
    """The model as a task loads it; without a task, the one its class is for.

    Args:
        num_labels: classes of a classifier.

    Raises:
        UnsupportedError: transformers has no class of this model for the task.
        MissingExtraError: only transformers can count the class, and it is not installed.
    """
    wanted = task or default_task(model)
    labels = (num_labels or DEFAULT_NUM_LABELS) if wanted == "classification" else None
    found = _of_catalogue(model, wanted, labels)
    if found is not None:
        return found
    if task_of(model) == wanted and labels is None:
        return model
    _check(model, wanted)
    if model.model_type in FAMILIES:
        return _with_head(model, labels)
    return _asked(model, wanted, labels)


def _of_catalogue(model: ModelSpec, task: Task, labels: int | None) -> ModelSpec | None:
    """From the catalogue's own record of the class, where it has one."""
    if model.provenance.source != "catalogue":
        return None
    entry = next(each for each in catalogue.entries() if each.id == model.provenance.location)
    found = catalogue.record(entry).get("tasks", {}).get(task)
    if found is None:
        return None
    rows = [
        [name, [labels if size == "num_labels" else size for size in shape], *rest]
        for name, shape, *rest in found["weights"]
    ]
    return _changed(model, found, weights_of(rows, model.checkpoint_dtype))


def _check(model: ModelSpec, task: Task) -> None:
    if model.provenance.source == "catalogue" or model.config.get("is_encoder_decoder") or task == "seq2seq":
        raise UnsupportedError(
            f"transformers has no class that trains {model.repo_id} ({model.model_type}) for {task}",
            remedy=f"--task {default_task(model)}",
        )


def _with_head(model: ModelSpec, labels: int | None) -> ModelSpec:
    """A Llama-shaped classifier: ``score`` in the place of ``lm_head``
    (transformers/modeling_layers.py, GenericForSequenceClassification)."""
    assert labels is not None
    kept = [weight for weight in model.weights if not weight.name.startswith("lm_head.")]
    shape = (labels, int(model.config["hidden_size"]))
    score = Weight(name="score.weight", shape=shape, dtype=model.checkpoint_dtype, module="linear")
    family = model.architecture.removesuffix("ForCausalLM")
    if model.model_type == "gemma3_text":
        family = "Gemma3Text"
    found = {"architecture": family + CLASSIFIER, "output_embedding": None}
    return _changed(model, found, (*kept, score))


def _asked(model: ModelSpec, task: Task, labels: int | None) -> ModelSpec:
    answer = ask_transformers(model.config, f"{model.repo_id} for {task}", task=task, num_labels=labels)
    return _changed(model, answer, weights_of(answer["weights"], model.checkpoint_dtype))


def _changed(model: ModelSpec, found: dict[str, Any], weights: tuple[Weight, ...]) -> ModelSpec:
    config = found.get("config") or model.config
    return model.model_copy(
        update={
            "architecture": found["architecture"],
            "model_type": config["model_type"],
            "config": config,
            "output_embedding": found["output_embedding"],
            "weights": weights,
            "published_params": None,
        }
    )
