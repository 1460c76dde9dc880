"""The setup of one device that runs the operations of a rank of several, and of one that keeps the same tensors."""

from typing import Any

from vramplan.planner.deepspeed import half_of, stage_of
from vramplan.planner.methods import trains_base
from vramplan.planner.training_setup import TrainingSetup


def computing_setup(setup: TrainingSetup) -> TrainingSetup:
    """What a rank computes, as if it were alone. Under FSDP2's and DeepSpeed's mixed precision parameters are in half
    precision wherever they are used (torch's MixedPrecisionPolicy, as accelerate sets it; DeepSpeed's bf16 section)."""
    if setup.sharding == "none":
        return setup
    changes: dict[str, Any] = {"sharding": "none", "offload": "none", "gpus": 1, "nodes": 1}
    precision = setup.precision
    half = half_of(setup) if stage_of(setup) else precision.mixed_precision
    if setup.sharding != "ddp" and half not in (None, "no"):
        changes["precision"] = precision.model_copy(update={"dtype": half, "adapter_dtype": half})
    return setup.model_copy(update=changes)


def kept_setup(setup: TrainingSetup) -> TrainingSetup:
    """The dtypes a setup's tensors have between steps: what trains is in fp32 under mixed precision
    (accelerate/utils/fsdp_utils.py, fsdp2_prepare_model)."""
    precision = setup.precision
    if precision.mixed_precision == "no":
        return setup
    masters: dict[str, Any] = {"adapter_dtype": "fp32"} | ({"dtype": "fp32"} if trains_base(setup.method) else {})
    return setup.model_copy(update={"precision": precision.model_copy(update=masters)})
