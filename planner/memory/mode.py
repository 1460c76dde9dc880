"""How a setup is trained, as a program's key says it: sizes left out."""

from typing import Any

from vramplan.planner.device import Route
from vramplan.planner.errors import UnsupportedError
from vramplan.planner.methods import Full, Qlora
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
        "padded": setup.padding != "none",
    }
    if isinstance(method, Full):
        return Mode(method="full", **common)
    common |= {
        "target_modules": _sorted_targets(method.target_modules),
        "dropout": method.lora_dropout > 0,
        "use_dora": method.use_dora,
        "adapter_dtype": precision.adapter_dtype,
    }
    if isinstance(method, Qlora):
        return Mode(method="qlora", quant=method.quant, double_quant=method.double_quant, **common)
    return Mode(method="lora", **common)


def _sorted_targets(targets: Any) -> Any:
    return targets if isinstance(targets, str) else tuple(sorted(targets))


def _refuse_unpriced(setup: TrainingSetup, workload: Workload) -> None:
    """Options that are understood but have no memory program yet, each by name."""
    method = setup.method
    refusals = {
        f"--task {workload.task}": workload.task != "causal-lm",
        f"--loss {setup.loss}": setup.loss == "liger",
        f"--loop {setup.loop}": setup.loop != "executor",
        f"--attention {setup.attention}": setup.attention == "flash_attention_2",
        "--packing": setup.packing,
        "--kbit-preparation": setup.kbit_preparation,
        f"--sharding {setup.sharding}": setup.sharding != "none",
        f"--offload {setup.offload}": setup.offload != "none",
        "--use-dora with a quantised base": isinstance(method, Qlora) and method.use_dora,
        "--quant int8": getattr(method, "quant", None) == "int8",
    }
    for option, refused in refusals.items():
        if refused:
            raise UnsupportedError(f"{option} is not priced yet", remedy="leave it out to price the setup without it")
