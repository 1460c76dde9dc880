"""Every weight transformers would instantiate for a config, read off the class on the meta device: exact, no memory.

Run as ``python -P -m vramplan.planner.trace.weights [--task TASK] [--num-labels N]``: a config.json on stdin, one JSON
object on stdout ({"architecture", "config", "dtype", "output_embedding", "weights"}); on failure {"error"} and exit
code 1. With a task, the class is the one that task loads; else the one config.json names.

Which module holds a weight decides what a method may do to it:

- bitsandbytes, through transformers, replaces a module when ``type(module) is nn.Linear`` or it is a transformers
  ``Conv1D`` (transformers/integrations/bitsandbytes.py, replace_with_bnb_linear): type *identity*, so a subclass of
  ``nn.Linear`` stays as it is.
- PEFT's all-linear takes ``isinstance(module, (nn.Linear, Conv1D))`` but the output embedding
  (peft/tuners/tuners_utils.py, _maybe_include_all_linear_layers).

So ``linear`` means type identity, which both agree on, and ``linear_subclass`` what only PEFT takes; ``conv`` holds
Conv1D (GPT-2), told from a real convolution by its two-dimensional weight, stored (in, out).
"""

import argparse
import importlib
import json
import re
import sys
from collections.abc import Iterable
from typing import Any

from vramplan.planner.config_defaults import named_dtype
from vramplan.planner.dtypes import Dtype
from vramplan.planner.model_spec import ModuleKind, Weight
from vramplan.planner.weight_rows import rows_of
from vramplan.planner.workload import Task


def build_config(config: dict[str, Any]) -> Any:
    """A transformers config from config.json's fields: the library's own defaults for the rest, never remote code."""
    from transformers import AutoConfig

    fields = {
        key: value for key, value in config.items() if key not in ("model_type", "quantization_config", "auto_map")
    }
    return AutoConfig.for_model(config["model_type"], **_fresh(fields))


def _fresh(value: Any) -> Any:
    """A copy, for transformers edits rope_scaling in place; the text Infinity becomes the number again."""
    if isinstance(value, dict):
        return {key: _fresh(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_fresh(part) for part in value]
    return float(value) if value in ("Infinity", "-Infinity") else value


def class_for(config: Any, architecture: str | None = None) -> Any:
    """The transformers class to count.

    The one named, when transformers has it; a bare encoder for the encoder families, whose heads a task chooses;
    else the causal LM, seq2seq or image-text class.
    """
    import transformers
    from transformers.models.auto import modeling_auto as auto

    if architecture and hasattr(transformers, architecture):
        return getattr(transformers, architecture)
    kind = type(config)
    generates = config.is_encoder_decoder or getattr(config, "is_decoder", False)
    mappings = [
        auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        auto.MODEL_MAPPING,
    ]
    if generates:
        mappings[:2] = reversed(mappings[:2])
    elif kind in auto.MODEL_FOR_MASKED_LM_MAPPING:
        mappings = mappings[-1:]
    for mapping in mappings:
        if kind in mapping:
            found = mapping[kind]
            return found[0] if isinstance(found, tuple) else found
    raise LookupError(f"transformers has no model class for model_type {config.model_type}")


def task_class(config: Any, task: Task) -> Any | None:
    """The class a task loads a config as (planner/tasks.py); None: transformers has none."""
    from transformers.models.auto import modeling_auto as auto

    kind = type(config)
    if task == "classification":
        mappings = [auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING]
    elif task == "seq2seq":
        mappings = [auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING]
    else:
        mappings = [auto.MODEL_FOR_CAUSAL_LM_MAPPING, auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING]
    found = next((mapping[kind] for mapping in mappings if kind in mapping), None)
    found = found or _class_of_part(kind, mappings[0])
    return found[0] if isinstance(found, tuple) else found


def _class_of_part(kind: type, mapping: Any) -> Any | None:
    """The class of a mapping that takes the language part of a multimodal config, which stands under the whole's name
    there (MllamaForCausalLM takes an MllamaTextConfig)."""
    package = importlib.import_module(kind.__module__.rpartition(".")[0])
    classes = (getattr(package, name, None) for name in mapping._model_mapping.values() if isinstance(name, str))
    return next((each for each in classes if each is not None and each.config_class is kind), None)


def config_of_class(config: Any, model_class: Any) -> Any:
    """The config a class takes: a text-only class of a multimodal model takes its text_config
    (transformers/models/auto/auto_factory.py, from_pretrained)."""
    return config.get_text_config() if model_class.config_class in config.sub_configs.values() else config


def generating_class(config: dict[str, Any]) -> str | None:
    """The class config.json names, when it is one that generates; task heads of other kinds are chosen elsewhere."""
    named = (config.get("architectures") or [None])[0]
    endings = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    return named if isinstance(named, str) and named.endswith(endings) else None


def meta_model(config: Any, architecture: str | None = None) -> Any:
    """The model on the meta device: shapes and modules, no memory."""
    import torch

    with torch.device("meta"):
        return class_for(config, architecture)(config)


def weights_on_meta(model: Any, dtype: Dtype) -> tuple[Weight, ...]:
    """Every parameter of a model, tied ones once, as ``from_pretrained(dtype=...)`` would hold it.

    Parameters the class keeps in fp32 (``_keep_in_fp32_modules_strict``, and for fp16 ``_keep_in_fp32_modules``) are.
    """
    kept = _kept_in_fp32(model, dtype)
    found: dict[tuple[Any, ...], list[int]] = {}
    for name, parameter in model.named_parameters():
        pattern, layer = _fold(name, model)
        held: Dtype = "fp32" if kept and kept.search(name) else dtype
        key = (pattern, tuple(parameter.shape), held, _module_kind(model, name, parameter))
        layers = found.setdefault(key, [])
        if layer is not None:
            layers.append(layer)
    return tuple(
        Weight(name=pattern, shape=shape, dtype=held, module=kind, layers=tuple(sorted(layers)))
        for (pattern, shape, held, kind), layers in found.items()
    )


def _kept_in_fp32(model: Any, dtype: Dtype) -> re.Pattern[str] | None:
    names: list[str] = []
    if dtype in ("fp16", "bf16"):
        names += model._keep_in_fp32_modules_strict or ()
    if dtype == "fp16":
        names += model._keep_in_fp32_modules or ()
    # The library matches a plan's key as whole dotted components of the parameter's name.
    return re.compile("|".join(rf"(?:^|\.){name}(?:$|\.)" for name in names)) if names else None


def _fold(name: str, model: Any) -> tuple[str, int | None]:
    """Replace the index into the outermost ModuleList by ``{layer}``."""
    from torch import nn

    parts = name.split(".")
    for at, part in enumerate(parts):
        if part.isdigit() and isinstance(model.get_submodule(".".join(parts[:at])), nn.ModuleList):
            return ".".join([*parts[:at], "{layer}", *parts[at + 1 :]]), int(part)
    return name, None


def _module_kind(model: Any, name: str, parameter: Any) -> ModuleKind:
    from torch import nn
    from torch.nn.modules.conv import _ConvNd
    from transformers.pytorch_utils import Conv1D

    owner = model.get_submodule(name.rpartition(".")[0])
    title = type(owner).__name__
    if type(owner) is nn.Linear:
        return "linear"
    if isinstance(owner, nn.Linear):
        return "linear_subclass"
    if isinstance(owner, (_ConvNd, Conv1D)):
        return "conv"
    if isinstance(owner, nn.Embedding):
        return "embedding"
    if "Experts" in title:
        return "experts"
    if "Norm" in title:
        return "norm"
    return "other"


def output_embedding(model: Any) -> str | None:
    """The name of the module that makes the logits; None for a bare encoder."""
    module = model.get_output_embeddings()
    return next((name for name, each in model.named_modules() if each is module), None) if module is not None else None


def completed_config(config: Any, given: dict[str, Any]) -> dict[str, Any]:
    """What config.json says, completed by the library's defaults for the fields of this architecture.

    Fields every transformers config has and no shape depends on (token ids, label maps, output switches) stay only
    when given. A field given but resolved to None is off (``sliding_window`` without ``use_sliding_window``).
    """
    from transformers import PreTrainedConfig

    common = set(PreTrainedConfig().to_dict()) - {"tie_word_embeddings", "is_encoder_decoder", "model_type"}
    return _complete(given, config.to_dict(), common)


def _complete(given: dict[str, Any], resolved: dict[str, Any], common: Iterable[str]) -> dict[str, Any]:
    whole = {key: value for key, value in resolved.items() if key not in common and not key.startswith("_")}
    for key, value in given.items():
        nested = whole.get(key)
        if isinstance(value, dict) and isinstance(nested, dict):
            whole[key] = _complete(value, nested, common)
        elif key not in whole or nested is not None:
            whole[key] = value
    return whole


def task_model(config: Any, task: Task, num_labels: int | None = None) -> Any:
    """The model a task trains, on the meta device.

    Raises:
        LookupError: transformers has no class of this type for the task.
    """
    import torch

    found = task_class(config, task)
    if found is None:
        raise LookupError(f"transformers has no {task} class for model_type {config.model_type}")
    config = config_of_class(config, found)
    if num_labels is not None:
        config.num_labels = num_labels
    with torch.device("meta"):
        return found(config)


def main(arguments: list[str]) -> int:
    """Read a config on stdin, print its weights."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task")
    parser.add_argument("--num-labels", type=int)
    options = parser.parse_args(arguments)
    given = json.load(sys.stdin)
    try:
        config = build_config(given)
        if options.task is None:
            model = meta_model(config, generating_class(given))
        else:
            model = task_model(config, options.task, options.num_labels)
            config = model.config
        dtype = named_dtype(given) or "fp32"
        answer: dict[str, Any] = {
            "architecture": type(model).__name__,
            "config": completed_config(config, given),
            "dtype": dtype,
            "output_embedding": output_embedding(model),
            "weights": rows_of(weights_on_meta(model, dtype), dtype),
        }
    except Exception as problem:  # whatever a model class raises on a bad config is the answer
        answer = {"error": f"{type(problem).__name__}: {problem}"}
    print(json.dumps(answer, default=str))  # noqa: T201
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
