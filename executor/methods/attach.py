"""A method on a loaded model. What a Method means in PEFT's terms is said once, in planner/trace/adapters.py: the step
that was traced and the step that runs wear the same adapter."""

from typing import Any

from vramplan.executor.methods import quantized
from vramplan.planner.dtypes import FloatDtype
from vramplan.planner.errors import UnsupportedError
from vramplan.planner.methods import quant_of, trains_base
from vramplan.planner.training_setup import TrainingSetup


def attach(model: Any, setup: TrainingSetup, *, tokenizer: str) -> Any:
    """The model with what trains: an adapter on its frozen base, or the base's own parameters.

    ``set_adapter_dtype`` has the last word on an adapter's dtype.

    Args:
        tokenizer: the folder or Hub id of the tokenizer, which reads the text a prompt starts from.

    Raises:
        UnsupportedError: a target names nothing of this model.
    """
    from vramplan.planner.trace.adapters import apply_method  # imports torch

    if quant_of(setup.method) is not None:
        model = quantized.prepare(model, setup)
    try:
        return apply_method(model, setup.method, adapter_dtype="fp32", tokenizer=tokenizer)
    except ValueError as error:
        if "arget module" not in str(error):
            raise
        targets = getattr(setup.method, "target_modules", None)
        raise UnsupportedError(
            f"{type(model).__name__} has no layer that {setup.method.kind} can target under {targets!r}",
            remedy="re-plan without --target, or with names of the model's linear layers",
        ) from error


def set_adapter_dtype(model: Any, setup: TrainingSetup) -> None:
    """Give every adapter weight the planned dtype.

    PEFT makes fp32 adapters on half-precision bases and trl makes bf16 ones on quantised bases; the plan was priced
    with one dtype, so it is set again after both have run. The values lose at most what trl's cast has already lost,
    and they are random (A) or zero (B) at that point. DoRA's magnitudes stay fp32.
    """
    if trains_base(setup.method):
        return
    from vramplan.planner.trace.adapters import cast_adapter  # imports torch

    dtype: FloatDtype = setup.precision.adapter_dtype
    cast_adapter(model, dtype)
