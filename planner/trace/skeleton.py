"""A real transformers model without its weights: built on the meta device, then given fake or real tensors."""

import copy
from typing import Any

import torch
from torch import nn

from vramplan.planner.memory.stack import running_stacks
from vramplan.planner.tasks import in_tower
from vramplan.planner.trace.weights import build_config, config_of_class, task_class
from vramplan.planner.workload import Task

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_skeleton(
    config: dict[str, Any],
    *,
    dtype: str,
    attention: str = "sdpa",
    kept: tuple[int, ...] = (),
    task: Task = "causal-lm",
    num_labels: int | None = None,
) -> nn.Module:
    """The model a task makes of a config, on the meta device, dropout as the config says, caches off.

    Args:
        config: config.json's fields, ``model_type`` among them.
        dtype: fp32, bf16 or fp16.
        attention: transformers' ``attn_implementation``.
        kept: the layers to keep, where not all; an encoder's come before its decoder's.
        num_labels: classes of a classifier.
    """
    from transformers.initialization import no_init_weights

    hf_config = build_config({name: value for name, value in config.items() if name != "architectures"})
    hf_config.use_cache = False
    _pad_inside(hf_config.get_text_config())
    model_class = task_class(hf_config, task)
    if model_class is None:
        raise ValueError(f"transformers has no {task} class for {hf_config.model_type}")
    hf_config = config_of_class(hf_config, model_class)
    if num_labels is not None:
        _label(hf_config, num_labels)
    with torch.device("meta"), no_init_weights():
        model: nn.Module = model_class._from_config(
            hf_config, dtype=TORCH_DTYPES[dtype], attn_implementation=attention_by_part(hf_config, attention)
        )
    model.tie_weights()
    if kept:
        _keep_layers(model, kept)
    return model


def attention_by_part(config: Any, attention: str) -> str | dict[str, str]:
    """``attention`` for the language model; towers, which never run on text and do not all have it, eager."""
    towers = [name for name in config.sub_configs if in_tower(name)]
    return {"": attention, **dict.fromkeys(towers, "eager")} if towers else attention


def _pad_inside(text: Any) -> None:
    """A pad token that the vocabulary has: a config may leave it to the library's default, meant for a larger one."""
    pad = getattr(text, "pad_token_id", None)
    if isinstance(pad, int) and pad >= text.vocab_size:
        text.pad_token_id = 0


def _label(config: Any, num_labels: int) -> None:
    """One class a row (transformers/loss/loss_utils.py, ForSequenceClassificationLoss), and a pad token, by which a
    decoder's classifier finds the last token that counts."""
    config.num_labels = num_labels
    config.problem_type = "single_label_classification"
    text = config.get_text_config()
    if text.pad_token_id is None:
        text.pad_token_id = 0


def find_stacks(model: nn.Module) -> list[nn.ModuleList]:
    """The stacks of layers a step runs through, in order: ModuleLists that are not inside another (experts are)."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(name.startswith(f"{outer}.") for outer in found):
            continue
        if all(next(member.parameters(), None) is not None for member in module):
            found[name] = module
    return [found[name] for name in running_stacks({name: len(layers) for name, layers in found.items()})]


def _keep_layers(model: nn.Module, kept: tuple[int, ...]) -> None:
    """Leave only some layers, counted through all stacks."""
    start = 0
    for layers in find_stacks(model):
        stop = start + len(layers)
        _keep_of_stack(model, layers, [index - start for index in kept if start <= index < stop])
        start = stop


def _keep_of_stack(model: nn.Module, layers: nn.ModuleList, kept: list[int]) -> None:
    """Leave only some layers of one stack; config lists with an entry a layer follow."""
    depth = len(layers)
    if kept == list(range(depth)):
        return  # and ALBERT's one layer still runs num_hidden_layers times
    chosen: list[nn.Module] = []
    for position, index in enumerate(kept):
        again = index in kept[:position]
        chosen.append(copy.deepcopy(layers[index]) if again else layers[index])
    del layers[:]
    layers.extend(chosen)
    for position, layer in enumerate(chosen):  # which of a cache's layers a prefix finds
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = position
    holder = next(module for module in model.modules() if any(child is layers for child in module.children()))
    config = _config_of(model, holder)
    for name, value in list(vars(config).items()):
        if isinstance(value, (list, tuple)) and len(value) == depth:
            setattr(config, name, [value[index] for index in kept])
    for owner in (config, holder):
        _renumber(owner, depth, kept)
    if config is not model.config or not config.is_encoder_decoder:  # one config of both halves counts one of them
        config.num_hidden_layers = len(kept)


def _config_of(model: nn.Module, holder: nn.Module) -> Any:
    """The config that a stack is run by: its half's, of an encoder and a decoder; else the language model's."""
    config: Any = model.config
    return holder.config if config.is_encoder_decoder else config.get_text_config()


def _renumber(owner: Any, depth: int, kept: list[int]) -> None:
    """Lists of layers by number (cross_attention_layers) name the same layers where they stand now."""
    for name, value in list(vars(owner).items()):
        numbers = isinstance(value, (list, tuple)) and name.endswith("_layers") and len(value) < depth
        if numbers and all(isinstance(index, int) and 0 <= index < depth for index in value):
            setattr(owner, name, [position for position, index in enumerate(kept) if index in value])


def materialize(model: nn.Module, *, real: bool = False) -> nn.Module:
    """Give every meta tensor storage on the CPU device: fake inside a FakeTensorMode, else real small random numbers.

    Ties between tensors survive. Quantised weights keep their ``quant_state``.
    """
    memo: dict[int, torch.Tensor] = {}
    keep: list[torch.Tensor] = []  # ids stay unique while the originals live

    def given_storage(tensor: torch.Tensor | None) -> torch.Tensor | None:
        if tensor is None or tensor.device.type != "meta":
            return tensor
        known = memo.get(id(tensor))
        if known is None:
            keep.append(tensor)
            known = _fresh(tensor, given_storage, real)
            memo[id(tensor)] = known
        return known

    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in list(table.items()):
                table[name] = given_storage(tensor)
        for name, value in list(vars(module).items()):
            if isinstance(value, torch.Tensor):
                setattr(module, name, given_storage(value))
    return model


def _fresh(tensor: torch.Tensor, given_storage: Any, real: bool) -> torch.Tensor:
    fresh = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    if real:
        with torch.no_grad():
            _ = fresh.normal_(0, 0.02) if fresh.is_floating_point() else fresh.zero_()
    if not isinstance(tensor, nn.Parameter):
        return fresh
    state = getattr(tensor, "quant_state", None)
    # bitsandbytes' Params4bit cannot wrap a FakeTensor: a plain parameter that carries the state serves
    parameter = nn.Parameter(fresh, requires_grad=tensor.requires_grad)
    if state is not None:
        for part in (state, state.state2):
            if part is not None:
                part.absmax, part.code, part.offset = map(given_storage, (part.absmax, part.code, part.offset))
        for name in ("quant_state", "quant_type", "compress_statistics", "blocksize"):
            setattr(parameter, name, getattr(tensor, name))
        parameter.bnb_quantized = True
    return parameter
