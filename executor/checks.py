"""The checks of a preflight, one function each: look at one thing, say what was found and what would mend it."""

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from vramplan.executor.checkpoints import folders, read_seal
from vramplan.executor.disk import free_bytes as free_on_disk
from vramplan.executor.lock import OUTPUT_LOCK, run_lock
from vramplan.executor.packages import TRAIN_PACKAGES
from vramplan.executor.reporting import check_reporting
from vramplan.executor.rows import planned_rows
from vramplan.executor.saved_size import checkpoint_bytes, final_bytes
from vramplan.executor.static_check import planned_bytes
from vramplan.executor.supported import check_supported
from vramplan.planner.adapters.datasets import pin_data
from vramplan.planner.adapters.folder import read_config, read_folder
from vramplan.planner.adapters.host import read_host_memory
from vramplan.planner.adapters.tasks import model_for_task
from vramplan.planner.device import Device
from vramplan.planner.errors import BadConfigError, BadDataError, VramplanError
from vramplan.planner.plan import Drift, Plan, PlannedData
from vramplan.planner.plan_hash import sha256_of
from vramplan.planner.units import format_bytes
from vramplan.planner.values import Value


class Check(Value):
    """One thing that was looked at."""

    name: str
    verdict: Literal["ok", "warns", "blocks"]
    found: str
    remedy: str | None = None


def supported(plan: Plan) -> Check:
    """The plan asks only for what the executor runs."""
    try:
        check_supported(plan)
    except VramplanError as error:
        return _blocks("setup", error.message, error.remedy)
    method = plan.setup.method.kind
    return _ok("setup", f"{method}, {plan.setup.precision.dtype}, {plan.setup.optimizer}")


def training_libraries(plan: Plan, packages: Mapping[str, str]) -> Check:
    """The train extra is installed, with a torch that can use the planned device."""
    missing = [name for name in TRAIN_PACKAGES if name not in packages]
    if missing:
        return _blocks("libraries", f"not installed: {', '.join(missing)}", 'pip install "vramplan[train]"')
    on_gpu = plan.device is None or plan.device.kind in ("cuda", "rocm")
    if on_gpu and packages["torch"].endswith("+cpu"):
        remedy = "install a CUDA build of torch, or plan with --device cpu"
        return _blocks("libraries", f"torch {packages['torch']} cannot use a GPU", remedy)
    return _ok("libraries", ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "peft", "trl")))


def reports(plan: Plan) -> Check:
    """What writes the reports the recipe asks for is installed."""
    try:
        check_reporting(plan.recipe)
    except VramplanError as error:
        return _blocks("reports", error.message, error.remedy)
    return _ok("reports", f"to {plan.recipe.report_to}")


def ranks(plan: Plan, devices: Sequence[Device]) -> Check:
    """A GPU for each process; on a CPU they share it."""
    wanted = plan.setup.gpus
    if plan.device is not None and plan.device.kind == "cpu":
        return _ok("ranks", f"{wanted} processes, {plan.setup.sharding}, on one processor")
    if len(devices) < wanted:
        found = f"{wanted} GPUs planned, {len(devices)} of that kind here"
        return _blocks("ranks", found, f"re-plan with --gpus {max(1, len(devices))}, or run it where there are more")
    return _ok("ranks", f"{plan.setup.sharding} over {', '.join(sorted({each.name for each in devices}))} x {wanted}")


def drifted(drift: Drift, allow: Collection[str]) -> Check:
    """A difference between the plan and the world; one that blocks only warns once its name is accepted."""
    found = f"planned {drift.planned}, found {drift.found}"
    if drift.severity == "blocks" and drift.what not in allow:
        return _blocks(drift.what, found, drift.remedy)
    return Check(name=drift.what, verdict="warns", found=found, remedy=drift.remedy)


def memory(plan: Plan, device: Device | None) -> Check:
    """What is needed and what is free, where drift has nothing to say about it."""
    if device is None:
        return _blocks("memory", "no CUDA device here", "run it where there is one, or plan with --device cpu")
    needed, free = format_bytes(plan.budget.high_process_bytes), format_bytes(device.available_bytes)
    return _ok("memory", f"needs up to {needed}, {free} free on {device.name}")


def host_memory(plan: Plan) -> Check:
    """Host memory for loading: the weights pass through it on their way to a GPU. A container's limit counts."""
    free_bytes = read_host_memory().available_bytes
    on_cpu = plan.device is not None and plan.device.kind == "cpu"
    needed_bytes = plan.budget.process_bytes if on_cpu else planned_bytes(plan.budget, "weights")
    needed_bytes *= plan.setup.gpus
    found = f"{format_bytes(free_bytes)} free, up to {format_bytes(needed_bytes)} needed"
    if needed_bytes <= free_bytes:
        return _ok("host memory", found)
    return Check(name="host memory", verdict="warns", found=found, remedy="close other programs before the run")


def disk(plan: Plan) -> Check:
    """Room for the final weights and for as many checkpoints as are kept, one more while the next is written."""
    kept, each = plan.recipe.save_total_limit + 1, checkpoint_bytes(plan)
    needed_bytes = final_bytes(plan) + kept * each
    free_bytes = free_on_disk(Path(plan.recipe.output_dir))
    found = (
        f"needs {format_bytes(needed_bytes)} ({kept} checkpoints of {format_bytes(each)}, and the result), "
        f"{format_bytes(free_bytes)} free"
    )
    if needed_bytes <= free_bytes:
        return _ok("disk", found)
    return _blocks("disk", found, "free some space, or re-plan with another --output-dir or fewer checkpoints")


def model(plan: Plan) -> Check:
    """A local model is where it was, in safetensors; one from the Hub is pinned."""
    if plan.model.path is None:
        revision = plan.model.revision
        if revision is None:
            return Check(name="model", verdict="warns", found=f"{plan.model.repo_id} at no fixed revision")
        return _ok("model", f"{plan.model.repo_id} at {revision[:12]}, from the Hub")
    folder = Path(plan.model.path)
    if model_config_now(plan) is None:
        return _blocks("model", f"no readable config.json in {folder}", "put the model back, or plan again")
    if not any(folder.glob("*.safetensors")):
        return _blocks("model", f"no safetensors weights in {folder}", "only safetensors weights are loaded")
    return _ok("model", str(folder))


def download(plan: Plan) -> tuple[Check, ...]:
    """Room in the Hub's cache for a model that is not there yet; its weights are taken to be 16-bit."""
    if plan.model.path is not None:
        return ()
    from huggingface_hub import constants, try_to_load_from_cache

    cached = try_to_load_from_cache(plan.model.repo_id, "config.json", revision=plan.model.revision)
    if isinstance(cached, str) and any(Path(cached).parent.glob("*.safetensors")):
        return (_ok("download", f"{plan.model.repo_id} is in the Hub's cache"),)
    folder = Path(constants.HF_HUB_CACHE)
    needed_bytes, free_bytes = 2 * plan.model.total_params, free_on_disk(folder)
    found = f"about {format_bytes(needed_bytes)} into {folder}, {format_bytes(free_bytes)} free"
    if needed_bytes <= free_bytes:
        return (_ok("download", found),)
    return (_blocks("download", found, "free some space, or set HF_HOME to a larger disk"),)


def model_config_now(plan: Plan) -> str | None:
    """The hash of a local model's config as it is now; None where it cannot be read, or is the Hub's.

    A plan holds the hash of the config as the planner completed it for the task; where config.json is complete, the two
    are the same.
    """
    if plan.model.path is None:
        return None
    folder = Path(plan.model.path)
    try:
        raw = sha256_of(read_config(folder))
    except BadConfigError:
        return None
    if raw == plan.model.config_sha256:
        return raw
    try:
        model = model_for_task(read_folder(folder), plan.workload.task, plan.workload.num_labels)
    except VramplanError:
        return raw
    return sha256_of(model.config)


def training_data(plan: Plan) -> Check:
    """There is data, every row of it is usable or left out on request, and what is held out is no copy of it."""
    if plan.data is None:
        return _blocks("data", "the plan names no training file", "re-plan with --data FILE")
    try:
        rows = planned_rows(plan)
    except VramplanError as error:
        return _blocks("data", error.message, error.remedy)
    found = f"{plan.data.path}: {len(rows.train.rows)} {rows.train.kind} rows"
    if rows.held_out is not None:
        found += f", {len(rows.held_out.rows)} held out"
    remarks = rows.remarks()
    if remarks:
        return Check(name="data", verdict="warns", found="; ".join((found, *remarks)))
    return _ok("data", found)


def data_now(plan: Plan) -> PlannedData | None:
    """The training file as it is now; None where it cannot be read."""
    if plan.data is None:
        return None
    try:
        return pin_data(Path(plan.data.path))
    except BadDataError:
        return None


def output(plan: Plan, *, resumes: bool) -> Check:
    """The output folder can be written; what it holds is said, and no checkpoint of this plan is run over."""
    folder = Path(plan.recipe.output_dir)
    held = [path.name for path in folders(folder) if _is_of(path, plan)]
    if held and not resumes:
        remedy = "go on from it with --resume, or begin again with --start-over"
        return _blocks("output", f"{folder} holds {held[0]} of an earlier run of this plan", remedy)
    if not os.access(_existing(folder), os.W_OK):
        return _blocks("output", f"{folder} cannot be written", "re-plan with another --output-dir")
    if folder.is_dir() and any(path.name != OUTPUT_LOCK for path in folder.iterdir()):
        return Check(name="output", verdict="warns", found=f"{folder} is not empty; its weights will be replaced")
    return _ok("output", str(folder))


def unlocked(plan: Plan, run_folder: Path) -> Check:
    """No other run uses the run folder, or writes into the same output folder."""
    output_folder = Path(plan.recipe.output_dir)
    try:
        with ExitStack() as stack:
            stack.enter_context(run_lock(run_folder))
            if (output_folder / OUTPUT_LOCK).exists():
                stack.enter_context(run_lock(output_folder, OUTPUT_LOCK))
    except VramplanError as error:
        return _blocks("run folder", error.message, error.remedy)
    return _ok("run folder", str(run_folder))


def _is_of(checkpoint: Path, plan: Plan) -> bool:
    try:
        return read_seal(checkpoint).plan_fingerprint == plan.fingerprint
    except VramplanError:
        return False


def _existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    resolved = path.absolute()
    return next(parent for parent in (resolved, *resolved.parents) if parent.exists())


def _ok(name: str, found: str) -> Check:
    return Check(name=name, verdict="ok", found=found)


def _blocks(name: str, found: str, remedy: str | None) -> Check:
    return Check(name=name, verdict="blocks", found=found, remedy=remedy)
