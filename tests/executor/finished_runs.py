"""Finished runs without the running: a plan, a report, and an adapter with random weights where the result belongs."""

from pathlib import Path
from typing import Any

from tests.executor.factories import make_plan, make_setup, write_run
from vramplan.executor.evidence import Evidence, write_report
from vramplan.planner.adapters.folder import read_folder
from vramplan.planner.adapters.tasks import model_for_task
from vramplan.planner.methods import trains_base
from vramplan.planner.plan import Plan
from vramplan.planner.plan_hash import fingerprint_of


def plan_of(
    folder: Path, model_path: Path, method: Any, *, workload: dict[str, Any] | None = None, **options: Any
) -> Plan:
    """A plan whose output lies in ``folder``, with the model's own size in it."""
    plan = make_plan(folder, model_path=model_path, setup=make_setup(method), **options)
    wanted = plan.workload.model_copy(update=workload or {})
    spec = model_for_task(read_folder(model_path), wanted.task, wanted.num_labels)
    facts = {"total_params": spec.total_params, "architecture": spec.architecture, "model_type": spec.model_type}
    plan = plan.model_copy(update={"model": plan.model.model_copy(update=facts), "workload": wanted})
    return plan.model_copy(update={"fingerprint": fingerprint_of(plan.model_dump(mode="json"))})


def finish(folder: Path, model_path: Path, method: Any, *, seed: int = 0, **options: Any) -> Path:
    """A run folder as a finished run leaves it; its weights are random and far from the base's."""
    import torch

    from vramplan.executor.load import load_model, load_tokenizer

    plan = plan_of(folder, model_path, method, **options)
    write_run(plan, folder)
    torch.manual_seed(seed)
    task, labels = plan.workload.task, plan.data.labels if plan.data else ()
    model = load_model(plan.model, plan.setup, device_map={"": "cpu"}, task=task, labels=labels)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        noise = torch.randn_like(parameter) * 0.1
        parameter.data = parameter.data + noise if trains_base(method) else noise + (parameter.data == 1)
    model.save_pretrained(plan.recipe.output_dir)
    load_tokenizer(plan.model).save_pretrained(plan.recipe.output_dir)
    write_report(Evidence(plan).report("done"), folder)
    return folder
