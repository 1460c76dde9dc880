"""Preflight: what may stop a run is found before it starts, each with its remedy."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.executor.factories import (
    make_budget,
    make_device,
    make_plan,
    make_setup,
    pin,
    prompt_completion_rows,
    write_jsonl,
    write_run,
)
from vramplan.executor.lock import OUTPUT_LOCK, run_lock
from vramplan.executor.preflight import Preflight, preflight, preflight_text
from vramplan.planner.device import Device, Holder
from vramplan.planner.plan import Plan
from vramplan.planner.units import GIB

PACKAGES = {
    "torch": "2.13.0+cpu",
    "transformers": "5.23.0",
    "peft": "0.21.2",
    "trl": "1.16.0",
    "accelerate": "1.15.0",
    "bitsandbytes": "0.50.2",
    "datasets": "5.2.0",
}


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    """A model folder and a training file, as ``make_plan`` takes them."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (model / "model.safetensors").write_bytes(b"")
    data = write_jsonl(tmp_path / "train.jsonl", prompt_completion_rows())
    return {"model_path": model, "data": pin(data)}


def checked(plan: Plan, folder: Path, device: Device | None = None, **options: Any) -> Preflight:
    path = folder / "run" / "plan.json"
    if not path.exists():
        write_run(plan, folder / "run")
    return preflight(plan, path, device=device or make_device(), packages=PACKAGES, **options)


def verdicts(result: Preflight) -> dict[str, str]:
    return {check.name: check.verdict for check in result.checks if check.verdict != "ok"}


def test_a_sound_plan_may_go(tmp_path: Path, world: dict[str, Any]) -> None:
    result = checked(make_plan(tmp_path, **world), tmp_path)
    assert verdicts(result) == {}
    assert result.go
    assert json.loads(result.model_dump_json())["go"] is True


def test_memory_is_judged_by_the_upper_bound(tmp_path: Path, world: dict[str, Any]) -> None:
    budget = make_budget(4 * GIB).model_copy(update={"high_process_bytes": 5 * GIB})
    plan = make_plan(tmp_path, budget=budget, **world)
    for free_gib, accepted, verdict in [(5, (), None), (4.5, (), "blocks"), (4.5, ("memory",), "warns")]:
        device = make_device(free_bytes=int(free_gib * GIB))
        assert verdicts(checked(plan, tmp_path, device, allow=accepted)).get("memory") == verdict


def test_whoever_holds_the_memory_is_named(tmp_path: Path, world: dict[str, Any]) -> None:
    device = make_device(free_bytes=0, holders=(Holder(pid=4242, name="Xorg"),))
    text = preflight_text(checked(make_plan(tmp_path, **world), tmp_path, device), width=100)
    assert "Xorg (4242)" in text
    assert text.endswith("preflight: no go")


def test_without_the_device_there_is_no_run(tmp_path: Path, world: dict[str, Any]) -> None:
    plan = make_plan(tmp_path, device=make_device(kind="cuda", name="NVIDIA A10"), **world)
    write_run(plan, tmp_path / "run")
    result = preflight(plan, tmp_path / "run" / "plan.json", device=None, packages=PACKAGES)
    assert verdicts(result) == {"libraries": "blocks", "device": "blocks"}
    assert "NVIDIA A10" in preflight_text(result, width=100)


def test_missing_libraries_come_with_the_command_to_install_them(tmp_path: Path, world: dict[str, Any]) -> None:
    plan = make_plan(tmp_path, **world)
    write_run(plan, tmp_path / "run")
    result = preflight(plan, tmp_path / "run" / "plan.json", device=make_device(), packages={"torch": "2.13.0"})
    assert verdicts(result) == {"libraries": "blocks"}
    assert 'pip install "vramplan[train]"' in preflight_text(result, width=100)


def test_a_changed_training_file_is_refused(tmp_path: Path, world: dict[str, Any]) -> None:
    plan = make_plan(tmp_path, **world)
    path = Path(world["data"].path)
    path.write_text(path.read_text().replace("what comes", "what came"))
    assert verdicts(checked(plan, tmp_path)) == {"data": "blocks"}
    path.unlink()
    assert verdicts(checked(plan, tmp_path)) == {"data": "blocks"}


def test_a_bad_row_is_found_before_anything_is_loaded(tmp_path: Path, world: dict[str, Any]) -> None:
    held_out = write_jsonl(tmp_path / "eval.jsonl", [{"text": "a"}, {"text": 7}])
    result = checked(make_plan(tmp_path, eval_data=str(held_out), **world), tmp_path)
    assert verdicts(result) == {"data": "blocks"}
    assert "row 2" in preflight_text(result, width=200)


def test_bad_rows_are_left_out_on_request_and_copies_of_training_rows_are_named(
    tmp_path: Path, world: dict[str, Any]
) -> None:
    rows = [{"prompt": " What comes  after 3?", "completion": "4"}, {"prompt": "seven"}]
    held_out = write_jsonl(tmp_path / "eval.jsonl", rows)
    result = checked(make_plan(tmp_path, eval_data=str(held_out), skip_bad_rows=True, **world), tmp_path)
    assert verdicts(result) == {"data": "warns"}
    said = preflight_text(result, width=400)
    assert "40 prompt-completion rows, 1 held out" in said
    assert "row 2: `completion` is missing" in said
    assert "1 held-out rows are copies of training rows" in said


def test_a_plan_without_data_is_refused(tmp_path: Path, world: dict[str, Any]) -> None:
    assert verdicts(checked(make_plan(tmp_path, **{**world, "data": None}), tmp_path)) == {"data": "blocks"}


def test_a_model_that_changed_or_holds_no_safetensors_is_refused(tmp_path: Path, world: dict[str, Any]) -> None:
    plan = make_plan(tmp_path, **world)
    (world["model_path"] / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    assert verdicts(checked(plan, tmp_path)) == {"model-config": "blocks"}
    (world["model_path"] / "config.json").unlink()
    assert verdicts(checked(plan, tmp_path)) == {"model": "blocks"}
    (world["model_path"] / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (world["model_path"] / "model.safetensors").rename(world["model_path"] / "pytorch_model.bin")
    assert verdicts(checked(plan, tmp_path)) == {"model": "blocks"}


def test_what_can_be_priced_but_not_run_is_refused(tmp_path: Path, world: dict[str, Any]) -> None:
    for change in ({"loss": "liger"}, {"loop": "plain"}, {"sharding": "fsdp"}, {"offload": "all"}):
        plan = make_plan(tmp_path, setup=make_setup(**change), **world)
        assert verdicts(checked(plan, tmp_path)) == {"setup": "blocks"}


def test_drift_blocks_until_it_is_accepted_by_name(tmp_path: Path, world: dict[str, Any]) -> None:
    plan = make_plan(tmp_path, **world)
    card = make_device(kind="cuda", name="NVIDIA T4")
    assert verdicts(checked(plan, tmp_path, card)) == {"device": "blocks"}
    assert verdicts(checked(plan, tmp_path, card, allow=("driver",))) == {"device": "blocks"}
    assert verdicts(checked(plan, tmp_path, card, allow=("device",))) == {"device": "warns"}


def test_the_disk_must_hold_the_checkpoints_and_the_result(tmp_path: Path, world: dict[str, Any]) -> None:
    line = make_budget().phases[0].lines[0]
    lines = tuple(
        line.model_copy(update={"component": component, "estimate_bytes": 10**15})
        for component in ("adapter", "optimizer")
    )
    budget = make_budget().model_copy(update={"phases": (make_budget().phases[0].model_copy(update={"lines": lines}),)})
    assert verdicts(checked(make_plan(tmp_path, budget=budget, **world), tmp_path)) == {"disk": "blocks"}


def test_a_model_from_the_hub_needs_room_in_its_cache(tmp_path: Path, world: dict[str, Any]) -> None:
    plan = make_plan(tmp_path, data=world["data"])
    hub = plan.model.model_copy(update={"revision": "0" * 40, "total_params": 10**15})
    result = checked(plan.model_copy(update={"model": hub}), tmp_path)
    assert verdicts(result) == {"download": "blocks"}
    assert "HF_HOME" in preflight_text(result, width=200)


def test_a_tight_plan_may_go_once_it_was_verified(tmp_path: Path, world: dict[str, Any]) -> None:
    budget = make_budget(4 * GIB).model_copy(update={"high_process_bytes": 5 * GIB})
    plan = make_plan(tmp_path, budget=budget, **world)
    device = make_device(free_bytes=int(4.5 * GIB))
    assert verdicts(checked(plan, tmp_path, device)) == {"memory": "blocks"}
    assert verdicts(checked(plan, tmp_path, device, verified=True)) == {"memory": "warns"}


def test_output_that_exists_is_pointed_out_and_a_folder_in_use_is_refused(
    tmp_path: Path, world: dict[str, Any]
) -> None:
    plan = make_plan(tmp_path, **world)
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "adapter_model.safetensors").write_bytes(b"")
    assert verdicts(checked(plan, tmp_path)) == {"output": "warns"}
    with run_lock(tmp_path / "run"):
        assert verdicts(checked(plan, tmp_path)) == {"output": "warns", "run folder": "blocks"}
    with run_lock(tmp_path / "output", OUTPUT_LOCK):
        assert verdicts(checked(plan, tmp_path)) == {"output": "warns", "run folder": "blocks"}


def test_escapes_in_names_are_inert(tmp_path: Path, world: dict[str, Any]) -> None:
    device = make_device(name="\x1b[2JCard")
    text = preflight_text(checked(make_plan(tmp_path, **world), tmp_path, device), width=200)
    assert "\x1b" not in text


def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, world: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # chmod stops nobody who is root
    result = checked(make_plan(tmp_path, **world), tmp_path)
    assert verdicts(result) == {"output": "blocks"}
    assert "--output-dir" in preflight_text(result, width=200)
