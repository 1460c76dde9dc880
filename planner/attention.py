"""Which attention implementation a setup runs: sdpa where transformers has it, eager where it does not."""

from vramplan.planner.device import Device
from vramplan.planner.dims import language_config
from vramplan.planner.errors import UsageError
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.picker import Picker
from vramplan.planner.training_setup import TrainingSetup

CUDNN_FIRST = ((9, 0), (10, 0), (10, 3))
"""Compute capabilities whose sdpa takes cuDNN's kernel first, from the cuDNN that PyTorch 2.11's wheels bring on
(aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, check_prefer_cudnn_attention)."""


def cudnn_first(device: Device | None) -> bool:
    """Whether a device's scaled-dot-product attention prefers cuDNN."""
    return device is not None and device.compute_capability in CUDNN_FIRST


def before_ampere(device: Device | None) -> bool:
    """Whether a CUDA device is too old for FlashAttention (sdp_utils.cpp, check_flash_attention_hardware_support)."""
    capability = None if device is None else device.compute_capability
    return capability is not None and capability < (8, 0)


def keeps_scores(model: ModelSpec, setup: TrainingSetup) -> bool:
    """Whether sdpa without FlashAttention takes the math path: heads share keys and values, and no mask makes
    transformers repeat them (integrations/sdpa_attention.py, use_gqa_in_sdpa)."""
    config = language_config(model.config)
    heads = config.get("num_attention_heads")
    shared = heads is not None and config.get("num_key_value_heads") not in (None, heads)
    return shared and setup.attention == "sdpa" and setup.padding == "none" and setup.method.kind != "prefix"


EAGER_ONLY = frozenset(
    (
        "big_bird",
        "bigbird_pegasus",
        "blip",
        "bloom",
        "canine",
        "codegen",
        "convbert",
        "cpmant",
        "deberta",
        "deberta-v2",
        "deepseek_v4",
        "falcon_mamba",
        "flaubert",
        "flint",
        "fnet",
        "fsmt",
        "funnel",
        "gemma2",
        "git",
        "got_ocr2",
        "gpt_neo",
        "gpt_neox_japanese",
        "gpt_oss",
        "gptj",
        "granite_swa",
        "granitemoe_swa",
        "hy_v4",
        "ibert",
        "inkling2",
        "inkling2_text",
        "layoutlmv2",
        "layoutlmv3",
        "led",
        "lilt",
        "longformer",
        "longt5",
        "luke",
        "mamba",
        "mamba2",
        "markuplm",
        "megatron-bert",
        "mimo_v2_flash",
        "mpnet",
        "mpt",
        "mra",
        "mvp",
        "nllb-moe",
        "nystromformer",
        "openai-gpt",
        "pegasus_x",
        "perceiver",
        "pp_chart2table",
        "prophetnet",
        "reformer",
        "rembert",
        "roformer",
        "rwkv",
        "squeezebert",
        "switch_transformers",
        "t5gemma",
        "tapas",
        "trocr",
        "vaultgemma",
        "xglm",
        "xlm",
        "xlnet",
        "xlstm",
        "yoso",
    )
)
"""Types whose classes for text have _supports_sdpa unset (transformers 5.23)."""


def choose_attention(pick: Picker, model: ModelSpec, device: Device | None) -> str:
    """The attention implementation of a setup.

    Raises:
        UsageError: the model or the device does not have the one asked for.
    """
    if model.model_type in EAGER_ONLY:
        if pick.given("attention") not in (None, "eager"):
            raise UsageError(
                f"--attention {pick.given('attention')}: transformers has eager attention alone for {model.model_type}",
                remedy="use --attention eager, or leave it out",
            )
        return str(pick.settle("attention", "eager", f"all that transformers has for {model.model_type}"))
    attention = str(pick.take("attention", "sdpa"))
    without = device is not None and (device.kind == "cpu" or device.flash_attention_2 is False)
    if attention == "flash_attention_2" and device is not None and without:
        raise UsageError(f"{device.name} has no FlashAttention 2", remedy="use --attention sdpa")
    return attention
