"""A base that bitsandbytes quantises while it loads (Dettmers et al., 2023, arXiv:2305.14314)."""

import logging
from typing import Any

from vramplan.executor.torch_dtypes import torch_dtype
from vramplan.planner.methods import quant_of
from vramplan.planner.tasks import HEAD_NAMES
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.workload import Task

HEADS = (*HEAD_NAMES, "pre_classifier")
"""A classifier's head trains as a copy, which a quantised one could not; it is left as it is."""


def quantization_config(setup: TrainingSetup, task: Task = "causal-lm") -> Any:
    """The ``transformers.BitsAndBytesConfig`` of a plan whose base is quantised.

    4-bit matmuls run in autocast's dtype when there is autocast, else in the dtype of the base.
    """
    from transformers import BitsAndBytesConfig

    quant = quant_of(setup.method)
    skipped = {"llm_int8_skip_modules": list(HEADS)} if task == "classification" else {}
    if quant == "int8":
        # One line a matmul is no news: 8-bit matmuls always take fp16 inputs.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True, **skipped)
    mixed = setup.precision.mixed_precision
    compute = setup.precision.dtype if mixed == "no" else mixed
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant,
        bnb_4bit_use_double_quant=getattr(setup.method, "double_quant", True),
        bnb_4bit_compute_dtype=torch_dtype(compute),
        **({"bnb_4bit_quant_storage": torch_dtype(setup.precision.dtype)} if setup.sharding == "fsdp" else {}),
        **skipped,
    )


def prepare(model: Any, setup: TrainingSetup) -> Any:
    """The quantised model, ready for an adapter; norms, embeddings and head in fp32 where k-bit preparation is
    planned."""
    keep_trainable_on_cpu(model)
    if setup.kbit_preparation:
        from vramplan.planner.trace.quantize import prepare_kbit  # imports torch

        model = prepare_kbit(model)
    return model


def keep_trainable_on_cpu(model: Any) -> None:
    """Forbid bitsandbytes' inference layout of 4-bit weights on CPUs with AVX512-BF16.

    The first evaluation there repacks the weights for a kernel that has no backward pass, and later training steps
    then drop the gradients of everything below (bitsandbytes/nn/modules.py, Linear4bit.forward).
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
