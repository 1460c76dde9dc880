"""The planned model and tokenizer, from a local folder or the pinned revision: safetensors only, no remote code."""

from typing import Any

from vramplan.executor.failure import first_line
from vramplan.executor.methods import quantized
from vramplan.executor.methods.attach import attach
from vramplan.executor.torch_dtypes import torch_dtype
from vramplan.planner.errors import ModelMissingError, UnsupportedError
from vramplan.planner.methods import quant_of
from vramplan.planner.plan import PlannedModel
from vramplan.planner.training_setup import TrainingSetup


def source(model: PlannedModel) -> str:
    """What ``from_pretrained`` is given: the folder when there is one, else the Hub id."""
    return model.path or model.repo_id


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


def load_model(model: PlannedModel, setup: TrainingSetup, *, device_map: dict[str, Any]) -> Any:
    """The planned model on its device, wrapped for the planned method, ready for the trainer.

    Raises:
        ModelMissingError: no safetensors weights at that place.
        UnsupportedError: the architecture found is not the one that was priced, or lacks the method's targets.
    """
    base = load_base(model, setup, device_map=device_map)
    base.config.use_cache = False
    return attach(base, setup, tokenizer=source(model))


def load_base(model: PlannedModel, setup: TrainingSetup, *, device_map: dict[str, Any]) -> Any:
    """The planned model without its method, quantised as planned.

    Raises:
        ModelMissingError: no safetensors weights at that place.
        UnsupportedError: the architecture found is not the one that was priced.
    """
    from transformers import AutoModelForCausalLM

    quantised = quant_of(setup.method) is not None
    quantization = {"quantization_config": quantized.quantization_config(setup)} if quantised else {}
    try:
        base = AutoModelForCausalLM.from_pretrained(
            source(model),
            dtype=torch_dtype(setup.precision.dtype),
            attn_implementation=setup.attention,
            device_map=device_map,
            use_safetensors=True,
            trust_remote_code=False,
            **_origin(model),
            **quantization,
        )
    except OSError as error:
        raise ModelMissingError(
            f"cannot load {model.repo_id} from {source(model)}: {first_line(error)}",
            remedy="the folder (or the pinned revision) must hold config.json and safetensors weights",
        ) from error
    found = type(base).__name__
    if found != model.architecture:
        raise UnsupportedError(
            f"the plan was priced for {model.architecture}, but {source(model)} holds {found}",
            remedy="plan again for this model",
        )
    return base


def _origin(model: PlannedModel) -> dict[str, Any]:
    return {"local_files_only": True} if model.path else {"revision": model.revision}
