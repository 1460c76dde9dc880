"""A run under DeepSpeed's ZeRO, in the worker, where it differs from others: how it is told, when it steps, what it
shows.

accelerate steps inside ``backward`` (accelerate/utils/deepspeed.py, DeepSpeedEngineWrapper), so gradients are gone when
Trainer comes to its own step. DeepSpeed's checkpoints hold pickled objects, and this executor unpickles none: it writes
no checkpoint of such a run, and goes on from none.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vramplan.planner.deepspeed import deepspeed_config, stage_of
from vramplan.planner.plan import Plan

NO_CHECKPOINTS = "a run under DeepSpeed writes its result and no checkpoints: what ends before that is begun again"


def deepspeed_arguments(plan: Plan) -> dict[str, Any]:
    """TrainingArguments' ``deepspeed``: the configuration that was priced."""
    if not stage_of(plan.setup):
        return {}
    from vramplan.executor.load import planned_config

    on_cpu = plan.device is not None and plan.device.kind == "cpu"
    return {"deepspeed": deepspeed_config(plan.setup, planned_config(plan.model).to_dict(), on_cpu=on_cpu)}


@contextmanager
def loaded_whole(plan: Plan) -> Iterator[None]:
    """``from_pretrained`` as ever: in stage 3 it would cut each tensor as it comes, by code of its own."""
    if stage_of(plan.setup) != 3:
        yield
        return
    from transformers.integrations import deepspeed as integration

    told = integration._hf_deepspeed_config_weak_ref
    integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        integration._hf_deepspeed_config_weak_ref = told


def tell_before_step(engine: Any, begins: Callable[[], None]) -> None:
    """Call ``begins`` whenever the engine is about to step."""
    step = engine.step

    def stepping(*args: Any, **options: Any) -> Any:
        begins()
        return step(*args, **options)

    engine.step = stepping


def check_gradients(engine: Any) -> tuple[str, ...]:
    """One sentence where the first step found no gradient: the norm is all that is left of them."""
    norm = engine.get_global_grad_norm()
    return () if norm is not None and float(norm) > 0 else ("no trainable parameter has a gradient in the first step",)
