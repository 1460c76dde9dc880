"""A ModelSpec from a model's own files: config.json, and the safetensors headers when they are known.

Weights come from our templates for the Llama-shaped families, else from the installed transformers, else from the
headers as they stand. Headers, when there, are held against the weights: a checkpoint that does not fit its config
is refused by the tensor's name.
"""

import re
from collections import Counter
from typing import Any, Literal

from vramplan.planner.adapters.catalogue import architectures, context_length, kind_key, module_kinds
from vramplan.planner.adapters.safetensors_headers import TensorInfo
from vramplan.planner.adapters.transformers_weights import ask_transformers, transformers_installed
from vramplan.planner.config_check import check_decoder
from vramplan.planner.config_defaults import complete_config, named_dtype
from vramplan.planner.dtypes import SAFETENSORS_NAMES, Dtype
from vramplan.planner.errors import BadConfigError, UnsupportedError
from vramplan.planner.model_spec import ModelSpec, ModuleKind, Provenance, Weight
from vramplan.planner.weight_rows import weights_of
from vramplan.planner.weight_templates import FAMILIES, weights_from_config

_LAYER = re.compile(r"(?<=\.)([0-9]{1,5})(?=\.)")
_FUSED_ON_LOADING = re.compile(r"\.experts\.\d+\.")


def model_from_files(
    config: dict[str, Any],
    tensors: dict[str, TensorInfo] | None,
    *,
    repo_id: str,
    source: Literal["folder", "hub"],
    revision: str | None = None,
    license: str | None = None,
    gated: bool | None = None,
) -> ModelSpec:
    """The model a config.json (already checked) and its headers describe.

    Args:
        config: config.json's object.
        tensors: every tensor of the checkpoint; None when no safetensors header is at hand.
        repo_id: Hub id, or the folder.

    Raises:
        BadConfigError: the config lacks a field, or a tensor does not fit it.
        UnsupportedError: transformers has no class for the model_type.
        MissingExtraError: neither templates nor headers nor transformers can tell the weights.
    """
    where = f"config.json of {repo_id[-120:]!r}"
    known = _known_type(config, where)
    quantization = _quantization(config, where)
    dtype = _stored_dtype(tensors, quantization) or named_dtype(config) or "fp32"
    whole, architecture, weights, basis, head = _weights(config, known, tensors, quantization, dtype, where)
    if tensors is not None and quantization is None and basis != _FROM_HEADERS:
        _check_tensors(weights, tensors, config, repo_id)
    return ModelSpec(
        repo_id=repo_id,
        revision=revision,
        model_type=config["model_type"],
        architecture=architecture,
        config=whole,
        weights=weights,
        checkpoint_dtype=dtype,
        quantization=quantization,
        license=license,
        gated=gated,
        published_params=sum(tensor.numel for tensor in tensors.values()) if tensors and not quantization else None,
        output_embedding=head,
        context_length=context_length(whole),
        provenance=Provenance(source=source, location=repo_id, parameters_basis=basis),
    )


_FROM_CONFIG = "counted from config.json"
_FROM_TRANSFORMERS = "counted by the installed transformers from config.json"
_FROM_HEADERS = "as the safetensors headers store them; what holds each weight is told from its name and shape"
_CHECKED = "; shapes checked against the safetensors headers"

Weighed = tuple[dict[str, Any], str, tuple[Weight, ...], str, str | None]


def _weights(
    config: dict[str, Any],
    known: dict[str, Any],
    tensors: dict[str, TensorInfo] | None,
    quantization: str | None,
    dtype: Dtype,
    where: str,
) -> Weighed:
    """(completed config, class, weights, how they are known, output embedding), from the best source at hand."""
    checked = _CHECKED if tensors is not None and quantization is None else ""
    if config["model_type"] in FAMILIES:
        check_decoder(config, where)
        whole = complete_config(config, known["defaults"])
        return whole, known["architecture"], weights_from_config(whole, dtype), _FROM_CONFIG + checked, "lm_head"
    if tensors is not None and quantization is None and not transformers_installed():
        whole = complete_config(config, known["defaults"])
        head = "lm_head" if "lm_head.weight" in tensors or whole.get("tie_word_embeddings") else None
        return whole, known["architecture"], weights_from_headers(tensors, whole), _FROM_HEADERS, head
    answer = ask_transformers(config, where)
    weights = weights_of(answer["weights"], dtype)
    return answer["config"], answer["architecture"], weights, _FROM_TRANSFORMERS + checked, answer["output_embedding"]


def _known_type(config: dict[str, Any], where: str) -> dict[str, Any]:
    model_type = config["model_type"]
    known: dict[str, Any] | None = architectures().get(model_type)
    if known is not None and known["architecture"] is not None:
        return known
    if isinstance(config.get("auto_map"), dict):
        raise UnsupportedError(
            f"{where}: model_type {model_type[:60]!r} exists only as code in its repository, which is never run here",
            remedy="choose a model with a transformers class: vramplan models",
        )
    raise UnsupportedError(
        f"{where}: transformers has no model_type {model_type[:60]!r}",
        remedy="check the spelling, or choose a model with a transformers class: vramplan models",
    )


def _quantization(config: dict[str, Any], where: str) -> str | None:
    found = config.get("quantization_config")
    if found is None:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("quant_method", ""), str):
        raise BadConfigError(
            f"{where} has a quantization_config that is not an object with a quant_method",
            remedy="check the file, or download config.json from the Hub again",
        )
    return found.get("quant_method") or "unknown"


def _stored_dtype(tensors: dict[str, TensorInfo] | None, quantization: str | None) -> Dtype | None:
    """The dtype most of the checkpoint's elements have; a quantised one holds packs, so it does not say."""
    if not tensors or quantization is not None:
        return None
    elements: Counter[str] = Counter()
    for tensor in tensors.values():
        elements[tensor.dtype] += tensor.numel
    most = SAFETENSORS_NAMES.get(elements.most_common(1)[0][0])
    return most if most in ("fp32", "bf16", "fp16", "fp8") else None


def _check_tensors(
    weights: tuple[Weight, ...], tensors: dict[str, TensorInfo], config: dict[str, Any], repo_id: str
) -> None:
    """Hold a checkpoint against the weights: for our families every name is there, and every shape is the same.

    A checkpoint of the bare model leaves out the ``model.`` prefix and the head, one of a classifier the head. Other
    families are renamed and rearranged while transformers loads them, so they are compared only when all names agree.
    """
    spec = {name: weight for weight in weights for name in _names(weight)}
    bare = not any(name in tensors for name in spec)
    stored = {f"model.{name}": tensor for name, tensor in tensors.items()} if bare else tensors
    named = config.get("architectures") or ["ForCausalLM"]
    headless = bare or not str(named[0]).endswith("ForCausalLM")
    missing = [name for name in spec if name not in stored and not (headless and name.startswith("lm_head."))]
    if missing and config["model_type"] in FAMILIES:
        more = f" and {len(missing) - 1} more tensors" if len(missing) > 1 else ""
        raise BadConfigError(
            f"the checkpoint of {repo_id[-120:]!r} lacks {missing[0]}{more} that config.json asks for",
            remedy="use the config.json that belongs to this checkpoint, or download it again",
        )
    for name, weight in spec.items() if not missing else ():
        tensor = stored.get(name)
        if tensor is not None and (tensor.numel if weight.module == "experts" else tensor.shape) != (
            weight.numel if weight.module == "experts" else weight.shape
        ):
            raise BadConfigError(
                f"the checkpoint of {repo_id[-120:]!r} holds {name} as {list(tensor.shape)}, "
                f"but config.json makes it {list(weight.shape)}",
                remedy="use the config.json that belongs to this checkpoint",
            )


def weights_from_headers(tensors: dict[str, TensorInfo], config: dict[str, Any]) -> tuple[Weight, ...]:
    """Weights as a checkpoint stores them; a tied head left out, layers folded, kinds told from names and shapes."""
    kinds = module_kinds(config["model_type"])
    folded: dict[tuple[str, tuple[int, ...], Dtype], list[int]] = {}
    for name, tensor in tensors.items():
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        dtype = SAFETENSORS_NAMES.get(tensor.dtype, "fp32")
        layer = _LAYER.search(name)
        pattern = f"{name[: layer.start()]}{{layer}}{name[layer.end() :]}" if layer else name
        layers = folded.setdefault((pattern, tensor.shape, dtype), [])
        if layer:
            layers.append(int(layer.group()))
    return tuple(
        Weight(
            name=name,
            shape=shape,
            dtype=dtype,
            module=kinds.get(kind_key(name)) or _kind(name, shape),
            layers=tuple(sorted(layers)),
        )
        for (name, shape, dtype), layers in folded.items()
    )


def _kind(name: str, shape: tuple[int, ...]) -> ModuleKind:
    owner = name.lower()
    if _FUSED_ON_LOADING.search(name):
        return "experts"
    if "norm" in owner or ".ln_" in owner:
        return "norm"
    if "embed" in owner or owner.endswith(("wte.weight", "wpe.weight", "shared.weight")):
        return "embedding"
    if len(shape) == 2 and name.endswith(".weight"):
        return "linear"
    return "conv" if len(shape) > 2 and name.endswith(".weight") else "other"


def _names(weight: Weight) -> list[str]:
    return [weight.name.replace("{layer}", str(layer)) for layer in weight.layers] or [weight.name]
