"""A model with random weights, built on the device it is measured on: no download, no file, no copy on the host."""

import gc
from typing import Any

from vramplan.executor.methods import quantized
from vramplan.executor.methods.attach import attach
from vramplan.executor.torch_dtypes import torch_dtype
from vramplan.planner.methods import quant_of
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.training_setup import TrainingSetup

SPREAD = 0.02


def random_model(model: ModelSpec, setup: TrainingSetup, device: str) -> Any:
    """The architecture of a config with its method attached, as ``load_model`` gives it from files."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    from vramplan.planner.trace.weights import build_config

    config = build_config({name: value for name, value in model.config.items() if name != "architectures"})
    dtype = torch_dtype(setup.precision.dtype)
    with torch.device(device), no_init_weights():
        base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=setup.attention)
    base.tie_weights()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.normal_(0, SPREAD)
    base.config.use_cache = False
    if quant_of(setup.method) is not None:
        _quantize(base, setup, device)
    return attach(base, setup, tokenizer="")


def random_tokenizer() -> Any:
    """Two tokens and their names: rows come as token ids."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def _quantize(base: Any, setup: TrainingSetup, device: str) -> None:
    """Every plain linear but the head as bitsandbytes' quantised linear, one after the other."""
    import torch
    from transformers.quantizers import AutoHfQuantizer
    from transformers.utils.quantization_config import QuantizationMethod

    eight_bit = quant_of(setup.method) == "int8"
    config = quantized.quantization_config(setup)
    head = base.get_output_embeddings()
    for parent in list(base.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is torch.nn.Linear and module is not head:
                setattr(parent, name, (_eight_bit if eight_bit else _four_bit)(module, config, device))
    setattr(base, "is_loaded_in_8bit" if eight_bit else "is_loaded_in_4bit", True)
    base.is_quantized = True
    base.quantization_method = QuantizationMethod.BITS_AND_BYTES
    base.config.quantization_config = config
    base.hf_quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


def _four_bit(linear: Any, config: Any, device: str) -> Any:
    import bitsandbytes

    kind, nested = config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant
    layer = bitsandbytes.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=config.bnb_4bit_compute_dtype,
        compress_statistics=nested,
        quant_type=kind,
        device="meta",
    )
    weight = bitsandbytes.nn.Params4bit(
        linear.weight.data, requires_grad=False, quant_type=kind, compress_statistics=nested, module=layer
    )
    return _with(layer, weight.to(device), linear)


def _eight_bit(linear: Any, config: Any, device: str) -> Any:
    import bitsandbytes

    layer = bitsandbytes.nn.Linear8bitLt(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        has_fp16_weights=False,
        threshold=config.llm_int8_threshold,
        device="meta",
    )
    # moving to a device is what quantises, and it takes fp16 from the host (bitsandbytes/nn/modules.py, Int8Params)
    weight = bitsandbytes.nn.Int8Params(linear.weight.data.cpu(), requires_grad=False, has_fp16_weights=False)
    return _with(layer, weight.to(device), linear)


def _with(layer: Any, weight: Any, linear: Any) -> Any:
    layer.weight = weight
    if linear.bias is not None:
        layer.bias = linear.bias
    return layer
