"""Which dtypes a setup runs in, from what the device can do.

bf16 weights with bf16 autocast where the device has bf16; fp32 on a CPU, where bf16 is several times slower; on a GPU
without bf16 (before Ampere) fp16 autocast with fp32 trainable weights, because a gradient scaler cannot unscale
fp16 gradients (torch/amp/grad_scaler.py).
"""

from vramplan.planner.device import Device
from vramplan.planner.errors import UsageError
from vramplan.planner.methods import Method, quant_of, trains_base
from vramplan.planner.picker import Picker
from vramplan.planner.training_setup import Precision
from vramplan.planner.workload import Task


def resolve_precision(
    pick: Picker, method: Method, loop: str, device: Device | None, task: Task = "causal-lm"
) -> Precision:
    """The three dtypes of a setup.

    Raises:
        UsageError: the dtypes asked for contradict each other, the method or the device.
    """
    dtype, mixed, because = _defaults(trains_base(method), device)
    autocast_because = {"no": "fp32 needs none", "fp16": because}.get(mixed)
    if loop == "plain" and mixed == "bf16":
        mixed, autocast_because = "no", "a plain loop enters no autocast unless asked"
    if pick.given("dtype") == "fp16" and pick.given("mixed_precision") is None:
        mixed, autocast_because = "fp16", "fp16 weights are trained under fp16 autocast"
    precision = Precision(
        dtype=pick.take("dtype", dtype, derived=because if dtype != "bf16" else None),
        mixed_precision=pick.take("mixed_precision", mixed, derived=autocast_because),
        adapter_dtype="fp32",
    )
    _check(precision, method, device)
    _check_scaled_base(precision, method)
    if trains_base(method):
        return precision
    cast = quant_of(method) is not None and loop == "executor" and task == "causal-lm"
    return precision.model_copy(update={"adapter_dtype": _adapter_dtype(pick, method.kind, cast, precision)})


def _check_scaled_base(precision: Precision, method: Method) -> None:
    """PEFT's IA3 on a 4-bit linear hands fp32 on where no autocast takes it back (peft/tuners/ia3/bnb.py); so do
    modules trained in full, which are fp32 as adapters are."""
    half = precision.dtype != "fp32" and precision.mixed_precision == "no"
    if getattr(method, "modules_to_save", ()) and half:
        raise UsageError(
            f"--modules-to-save on a {precision.dtype} base without autocast: fp32 modules beside half-precision ones",
            remedy=f"use --mixed-precision {precision.dtype}",
        )
    if method.kind == "ia3" and quant_of(method) is not None and half:
        raise UsageError(
            f"--method ia3 on a quantised {precision.dtype} base without autocast: "
            "its keys would be fp32, its queries not",
            remedy=f"use --mixed-precision {precision.dtype}",
        )


def _defaults(base_trains: bool, device: Device | None) -> tuple[str, str, str | None]:
    if device is not None and device.kind == "cpu":
        return "fp32", "no", "bf16 is several times slower than fp32 on a CPU"
    if device is not None and device.bf16_native is False:
        return ("fp32" if base_trains else "fp16"), "fp16", f"{device.name} has no bf16"
    return "bf16", "bf16", None


def _adapter_dtype(pick: Picker, kind: str, cast: bool, precision: Precision) -> str:
    """``cast``: trl makes adapters on quantised bases bf16."""
    asked = pick.given("adapter_dtype")
    if asked == "bf16" and precision.mixed_precision == "fp16":
        raise UsageError(
            "--adapter-dtype bf16 under fp16 autocast: a gradient scaler cannot unscale bf16 gradients",
            remedy="use --adapter-dtype fp32",
        )
    if asked in ("fp32", "bf16"):
        return str(pick.take("adapter_dtype", "fp32"))
    if cast and precision.mixed_precision != "fp16":
        return str(pick.settle("adapter_dtype", "bf16", "trl casts adapters on a quantised base to bf16"))
    if kind == "ln-tuning" and precision.dtype == "bf16" and precision.mixed_precision == "no":
        return str(pick.settle("adapter_dtype", "bf16", "PEFT copies norms as they are"))
    return str(pick.settle("adapter_dtype", "fp32", "PEFT keeps adapters in fp32"))


def _check(precision: Precision, method: Method, device: Device | None) -> None:
    dtypes = (precision.dtype, precision.mixed_precision)
    if device is not None and device.kind == "cpu" and "fp16" in dtypes:
        raise UsageError("fp16 is not trained on a CPU", remedy="use --dtype fp32")
    if device is not None and device.bf16_native is False and "bf16" in dtypes:
        raise UsageError(
            f"{device.name} has no bf16", remedy="leave --dtype and --mixed-precision out: fp16 autocast is the default"
        )
    if set(dtypes) == {"fp16", "bf16"}:
        raise UsageError(
            f"--dtype {precision.dtype} with --mixed-precision {precision.mixed_precision}: "
            "the two half precisions do not mix",
            remedy="use the same one for both, or --dtype fp32",
        )
    if precision.dtype == "fp16" and trains_base(method):
        raise UsageError(
            f"--dtype fp16 with --method {method.kind}: fp16 weights cannot be trained, "
            "their gradients cannot be unscaled",
            remedy="use --dtype fp32 --mixed-precision fp16, or --dtype bf16",
        )
