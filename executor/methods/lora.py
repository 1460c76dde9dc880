"""LoRA on a loaded model. What a Method means in PEFT's terms is said once, in planner/trace/adapters.py: the step that
was traced and the step that runs wear the same adapter."""

from typing import Any

from vramplan.planner.dtypes import FloatDtype
from vramplan.planner.errors import UnsupportedError
from vramplan.planner.methods import Lora, Qlora


def attach(model: Any, method: Lora | Qlora) -> Any:
    """The model wrapped by PEFT, its base frozen. ``set_adapter_dtype`` has the last word on the adapter's dtype.

    Raises:
        UnsupportedError: a target names no linear of this model.
    """
    from peft import get_peft_model

    from vramplan.planner.trace.adapters import peft_config  # imports torch

    try:
        return get_peft_model(model, peft_config(method))
    except ValueError as error:
        if "arget module" not in str(error):
            raise
        raise UnsupportedError(
            f"{type(model).__name__} has no layer LoRA can target under {method.target_modules!r}",
            remedy="re-plan with --target all-linear, or with names of the model's linear layers",
        ) from error


def set_adapter_dtype(model: Any, dtype: FloatDtype) -> None:
    """Give every adapter weight the planned dtype.

    PEFT makes fp32 adapters on half-precision bases and trl makes bf16 ones on quantised bases; the plan was priced
    with one dtype, so it is set again after both have run. The values lose at most what trl's cast has already lost,
    and they are random (A) or zero (B) at that point. DoRA's magnitudes stay fp32.
    """
    from vramplan.planner.trace.adapters import cast_adapter  # imports torch

    cast_adapter(model, dtype)
