"""Checkpoints are whole or refused by name; the newest complete one is used, and pruning never takes it."""

import json
from pathlib import Path

import pytest

from tests.executor.factories import make_plan
from vramplan.executor.checkpoints import SAVING, SEAL, checked, folders, newest_complete, prune, remove_all, seal
from vramplan.executor.evidence import Evidence
from vramplan.planner.errors import RunError
from vramplan.planner.plan import Plan


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path)


def write(output: Path, plan: Plan, step: int) -> Path:
    folder = output / SAVING / f"checkpoint-{step}"
    (folder / "inner").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights of step %d" % step)
    (folder / "inner" / "optimizer.pt").write_bytes(b"states")
    return seal(folder, Evidence(plan).report("interrupted"), step)


def test_a_sealed_checkpoint_is_complete_and_the_furthest_is_used(tmp_path: Path, plan: Plan) -> None:
    for step in (2, 10, 9):
        assert write(tmp_path, plan, step) == tmp_path / f"checkpoint-{step}"
    found = newest_complete(tmp_path, plan.fingerprint)
    assert (found.folder, found.refused) == (tmp_path / "checkpoint-10", ())
    assert found.seal is not None
    assert found.seal.step == 10
    assert set(found.seal.files) == {"model.safetensors", "inner/optimizer.pt"}


DAMAGE = {
    "torn": lambda folder: (folder / SEAL).unlink(),
    "model.safetensors is not as it was written": lambda folder: (folder / "model.safetensors").write_bytes(b"x"),
    "inner/optimizer.pt is gone": lambda folder: (folder / "inner" / "optimizer.pt").unlink(),
    "pytorch_model.bin was added": lambda folder: (folder / "pytorch_model.bin").write_bytes(b"pickle"),
    "its seal cannot be read": lambda folder: (folder / SEAL).write_text("{}"),
}


@pytest.mark.parametrize("why", DAMAGE)
def test_a_torn_or_edited_checkpoint_is_refused_by_name_and_the_one_before_is_used(
    why: str, tmp_path: Path, plan: Plan
) -> None:
    write(tmp_path, plan, 5)
    DAMAGE[why](write(tmp_path, plan, 8))
    found = newest_complete(tmp_path, plan.fingerprint)
    assert found.folder == tmp_path / "checkpoint-5"
    assert len(found.refused) == 1
    assert "checkpoint-8" in found.refused[0]
    assert why in found.refused[0]


def test_one_flipped_byte_of_the_same_length_is_noticed(tmp_path: Path, plan: Plan) -> None:
    folder = write(tmp_path, plan, 5)
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[0] ^= 1
    (folder / "model.safetensors").write_bytes(raw)
    with pytest.raises(RunError, match="not as it was written"):
        checked(folder, plan.fingerprint)


def test_a_link_in_a_checkpoint_is_no_file_of_ours(tmp_path: Path, plan: Plan) -> None:
    folder = write(tmp_path, plan, 5)
    (folder / "model.safetensors").rename(tmp_path / "outside")
    (folder / "model.safetensors").symlink_to(tmp_path / "outside")
    with pytest.raises(RunError, match="is a link"):
        checked(folder, plan.fingerprint)
    (folder / "model.safetensors").unlink()
    (tmp_path / "outside").rename(folder / "model.safetensors")
    checked(folder, plan.fingerprint)
    (folder / "more").symlink_to(tmp_path)
    with pytest.raises(RunError, match="is a link"):
        checked(folder, plan.fingerprint)


def test_another_plans_checkpoint_is_refused(tmp_path: Path, plan: Plan) -> None:
    folder = write(tmp_path, plan, 5)
    with pytest.raises(RunError, match="belongs to plan"):
        checked(folder, "0" * 64)
    assert newest_complete(tmp_path, "0" * 64).folder is None


def test_what_a_killed_save_left_is_no_checkpoint(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / SAVING / "checkpoint-7").mkdir(parents=True)
    assert newest_complete(tmp_path, plan.fingerprint).folder is None
    write(tmp_path, plan, 3)
    assert newest_complete(tmp_path, plan.fingerprint).folder == tmp_path / "checkpoint-3"


def test_a_torn_checkpoint_of_the_same_step_is_replaced(tmp_path: Path, plan: Plan) -> None:
    (write(tmp_path, plan, 5) / SEAL).unlink()
    write(tmp_path, plan, 5)
    assert newest_complete(tmp_path, plan.fingerprint).folder == tmp_path / "checkpoint-5"


def test_pruning_keeps_the_newest_up_to_this_step_and_what_it_does_not_know(tmp_path: Path, plan: Plan) -> None:
    for step in (1, 2, 3, 9):
        write(tmp_path, plan, step)
    (tmp_path / "checkpoint-2" / SEAL).unlink()
    (tmp_path / "checkpoint-best").mkdir()
    prune(tmp_path, 1, step=3)
    # 9 lies beyond this run (it was refused when the run went on from 3), 2 is torn and tells nothing
    assert [folder.name for folder in folders(tmp_path)] == ["checkpoint-9", "checkpoint-3", "checkpoint-2"]
    remove_all(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-best"]


def test_the_seal_carries_the_story_so_far(tmp_path: Path, plan: Plan) -> None:
    evidence = Evidence(plan)
    for step, loss in enumerate((5.0, 4.0, 3.0), start=1):
        evidence.add_loss(step, loss)
    folder = tmp_path / SAVING / "checkpoint-3"
    folder.mkdir(parents=True)
    place = seal(folder, evidence.report("interrupted"), 3)
    later = Evidence(plan)
    later.continue_from(checked(place, plan.fingerprint).so_far, 3)
    later.add_loss(4, 2.0)
    report = later.report("done")
    assert (report.first_loss, report.last_loss, report.resumed_from_step) == (5.0, 2.0, 3)
    assert report.losses == ((1, 5.0), (2, 4.0), (3, 3.0), (4, 2.0))
    assert json.loads((place / SEAL).read_text())["plan_fingerprint"] == plan.fingerprint
