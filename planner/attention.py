"""Which attention implementation a setup runs: sdpa where transformers has it, eager where it does not."""

from vramplan.planner.device import Device
from vramplan.planner.errors import UsageError
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.picker import Picker

EAGER_ONLY = frozenset(
    (
        "big_bird",
        "bloom",
        "codegen",
        "cpmant",
        "deepseek_v4",
        "falcon_mamba",
        "gemma2",
        "gpt_neo",
        "gpt_neox_japanese",
        "gpt_oss",
        "gptj",
        "granite_swa",
        "granitemoe_swa",
        "mamba",
        "mamba2",
        "megatron-bert",
        "mimo_v2_flash",
        "mpt",
        "openai-gpt",
        "rembert",
        "roformer",
        "rwkv",
        "vaultgemma",
        "xglm",
        "xlm",
        "xlnet",
        "xlstm",
    )
)
"""Causal-LM types whose transformers class has _supports_sdpa unset (transformers 5.23)."""


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
