"""How a setup is trained, as a program's key says it: sizes left out."""

from typing import Any

from vramplan.planner.device import Route
from vramplan.planner.errors import UnsupportedError
from vramplan.planner.methods import (
    Bottleneck,
    Full,
    Ia3,
    Layerwise,
    Lora,
    Method,
    Ptuning,
    Qlora,
    quant_of,
    trainable_blocks,
    trains_base,
)
from vramplan.planner.programs.key import Mode
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.workload import Workload


def mode_of(setup: TrainingSetup, workload: Workload, route: Route) -> Mode:
    """The mode of a setup on a route.

    Raises:
        UnsupportedError: an option that is understood but has no memory program yet, by name.
    """
    method, precision = setup.method, setup.precision
    _refuse_unpriced(setup, workload)
    common: dict[str, Any] = {
        "route": route,
        "dtype": precision.dtype,
        "mixed_precision": precision.mixed_precision,
        "gradient_checkpointing": setup.gradient_checkpointing,
        "attention": setup.attention,
        "loss": setup.loss,
        "loop": setup.loop,
        "task": workload.task,
        "padded": setup.padding != "none",
        "packing": setup.packing,
    }
    if isinstance(method, (Full, Layerwise)):  # the same step; their optimizers' groups are another matter
        return Mode(method="full", last_blocks=trainable_blocks(method) is not None, **common)
    if not trains_base(method):
        common["adapter_dtype"] = precision.adapter_dtype
    if quant_of(method) is not None:
        common |= {
            "quant": quant_of(method),
            "double_quant": quant_of(method) != "int8" and getattr(method, "double_quant", False),
        }
        common["kbit_preparation"] = setup.kbit_preparation
    return Mode(method=method.kind, **_axes(method), **common)


def _axes(method: Method) -> dict[str, Any]:
    """What of a method decides which operations run, beside its name."""
    axes: dict[str, Any] = {}
    if hasattr(method, "target_modules"):
        axes["target_modules"] = _sorted_targets(method.target_modules)
    match method:
        case Lora() | Qlora():
            axes |= {"dropout": method.lora_dropout > 0, "use_dora": method.use_dora}
            axes["modules_to_save"] = _sorted_targets(method.modules_to_save)
            axes["trainable_tokens"] = bool(method.trainable_token_indices)
        case Bottleneck():
            axes |= {"adapter_kind": method.adapter_kind, "non_linearity": method.non_linearity}
        case Ia3():
            axes["feedforward_modules"] = _sorted_targets(method.feedforward_modules)
        case Ptuning():
            axes["encoder"] = method.encoder_reparameterization_type
        case _:
            pass
    return axes


def _sorted_targets(targets: Any) -> Any:
    return targets if isinstance(targets, str) else tuple(sorted(targets))


def _refuse_unpriced(setup: TrainingSetup, workload: Workload) -> None:
    """Options that are understood but have no memory program yet, each by name."""
    method = setup.method
    refusals = {
        f"--sharding {setup.sharding}": setup.sharding != "none",
        f"--offload {setup.offload}": setup.offload != "none",
        "--use-dora with --quant int8": getattr(method, "use_dora", False) and quant_of(method) == "int8",
    }
    for option, refused in refusals.items():
        if refused:
            raise UnsupportedError(f"{option} is not priced yet", remedy="leave it out to price the setup without it")
