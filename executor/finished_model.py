"""Models for after the training: the base as it was trained on, and adapters of finished runs on it."""

from pathlib import Path
from typing import Any

from vramplan.executor.failure import first_line
from vramplan.executor.finished import Tuned
from vramplan.executor.load import load_base, load_tokenizer
from vramplan.executor.methods.quantized import keep_trainable_on_cpu
from vramplan.planner.errors import RunError
from vramplan.planner.methods import Bottleneck, quant_of, trains_base
from vramplan.planner.plan import Plan


def use_device() -> str:
    """The GPU this process was shown, else the CPU."""
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def load_for_use(plan: Plan, *, device: str, weights: Path | None = None) -> Any:
    """The planned base, ready to answer, in the precision it was trained in.

    Args:
        weights: another folder of the same model, such as what full fine-tuning left.
    """
    place = plan.model if weights is None else plan.model.model_copy(update={"path": str(weights)})
    labels = plan.data.labels if plan.data is not None else ()
    base = load_base(place, plan.setup, device_map={"": device}, task=plan.workload.task, labels=labels)
    if quant_of(plan.setup.method) is not None:
        keep_trainable_on_cpu(base)  # the layout for inference computes other numbers than training saw
    base.eval()
    return base


def tokenizer_of(run: Tuned, plan: Plan) -> Any:
    """The tokenizer saved with the run, else the base's."""
    from transformers import AutoTokenizer

    if (Path(run.result) / "tokenizer_config.json").is_file():
        return AutoTokenizer.from_pretrained(run.result, trust_remote_code=False, local_files_only=True)
    return load_tokenizer(plan.model)


def with_adapter(model: Any, run: Tuned, plan: Plan, *, name: str = "default") -> Any:
    """The model with one more adapter on it, switched on.

    Args:
        model: a base, or one that has adapters of the same method already.
        name: PEFT's name of the adapter; a run's own may hold dots, which module names may not.

    Raises:
        RunError: the adapter does not fit.
    """
    from peft import PeftModel

    if isinstance(plan.setup.method, Bottleneck):
        import vramplan.planner.trace.bottleneck  # noqa: F401  PEFT learns of the tuner
    try:
        if not isinstance(model, PeftModel):
            model = PeftModel.from_pretrained(model, run.result, adapter_name=name)
        else:
            model.load_adapter(run.result, adapter_name=name)
            model.set_adapter(name)
    except (ValueError, RuntimeError, KeyError) as error:
        raise RunError(
            f"the adapter of {run.name} does not fit this base: {first_line(error)}", remedy="run its plan again"
        ) from error
    model.eval()
    return model


def load_tuned(run: Tuned, plan: Plan, *, device: str) -> Any:
    """A finished run's model: the base with its adapter, or the whole model it left."""
    if trains_base(plan.setup.method):
        return load_for_use(plan, device=device, weights=Path(run.result))
    return with_adapter(load_for_use(plan, device=device), run, plan)
