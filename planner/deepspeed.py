"""DeepSpeed's configuration of a setup: one place for what is priced, what is run and what a script is given.

Sizes that transformers would set where they are "auto" are written out (transformers/integrations/deepspeed.py,
trainer_config_finalize: hidden size h, reduce_bucket_size h x h, stage3_param_persistence_threshold 10 h). Stage 3
gathers a module's parameters as it begins and lets them go as it ends: nothing is gathered ahead, and nothing kept for
its next use (stage3_max_live_parameters and stage3_max_reuse_distance 0), so what is whole at a time is known.
"""

from dataclasses import dataclass
from typing import Any

from vramplan.planner.dims import language_config
from vramplan.planner.training_setup import TrainingSetup

SUB_GROUP_ELEMENTS = 1_000_000_000
"""DeepSpeed's own (deepspeed/runtime/zero/config.py): what stage 3's step works on at a time."""


@dataclass(frozen=True)
class ZeroSizes:
    """Elements."""

    reduce_bucket_size: int
    param_persistence_threshold: int
    """A tensor of no more stays whole in stage 3."""


def zero_sizes(config: dict[str, Any]) -> ZeroSizes:
    """What is "auto" in transformers' configurations, for a model's config.json.

    >>> zero_sizes({"hidden_size": 4096})
    ZeroSizes(reduce_bucket_size=16777216, param_persistence_threshold=40960)
    """
    known = language_config(config)
    hidden = int(known.get("hidden_size") or known.get("n_embd") or known["d_model"])
    return ZeroSizes(hidden * hidden, 10 * hidden)


def stage_of(setup: TrainingSetup) -> int | None:
    """Of ZeRO; None where DeepSpeed takes no part."""
    return int(setup.sharding[-1]) if setup.sharding.startswith("zero") else None


def half_of(setup: TrainingSetup) -> str | None:
    """The half precision that all parameters are in; None: fp32."""
    precision = setup.precision
    half = precision.mixed_precision if precision.mixed_precision != "no" else precision.dtype
    return None if half == "fp32" else half


def deepspeed_config(setup: TrainingSetup, config: dict[str, Any], *, on_cpu: bool = False) -> dict[str, Any]:
    """The file that DeepSpeed and accelerate read; what TrainingArguments say too is "auto".

    Args:
        setup: with a stage of ZeRO.
        config: the model's config.json.
        on_cpu: host memory is all there is, and nothing pins it.
    """
    stage, sizes, half = stage_of(setup), zero_sizes(config), half_of(setup)
    zero: dict[str, Any] = {
        "stage": stage,
        "contiguous_gradients": True,
        "overlap_comm": False,
        "reduce_bucket_size": sizes.reduce_bucket_size,
    }
    if stage == 3:
        zero |= {
            "stage3_param_persistence_threshold": sizes.param_persistence_threshold,
            "stage3_prefetch_bucket_size": 0,
            "stage3_max_live_parameters": 0,
            "stage3_max_reuse_distance": 0,
            "sub_group_size": SUB_GROUP_ELEMENTS,
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    pinned = {"device": "cpu", "pin_memory": not on_cpu}
    if setup.offload != "none":
        zero["offload_optimizer"] = pinned
    if setup.offload == "all":
        zero["offload_param"] = pinned
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": half == "bf16"},
        "fp16": {"enabled": half == "fp16"},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": zero,
    }
