"""``vramplan doctor`` on machines made up for it, and on this one."""

import json

import pytest

from tests.golden_text import assert_golden
from vramplan.planner.adapters.installation import CacheFolder, Installation, read_installation
from vramplan.planner.adapters.nvml import Readings
from vramplan.planner.cli.doctor import doctor_text, findings
from vramplan.planner.cli.main import run_command
from vramplan.planner.device import Device
from vramplan.planner.units import GIB

CARD = Device(
    source="reading",
    kind="cuda",
    name="NVIDIA GeForce RTX 4090",
    index=0,
    total_bytes=24 * GIB,
    free_bytes=23 * GIB,
    driver_version="580.95.05",
)
HERE = Installation(
    python="3.11.9",
    requires_python=">=3.11",
    requirements=(
        "huggingface_hub>=1.0",
        "pydantic>=2.9",
        'bitsandbytes>=0.48; extra == "train"',
        'torch<2.14,>=2.8; extra == "train"',
        'trl<1.17,>=1.16; extra == "train"',
        'vramplan[train]; extra == "demo"',
        'ruff>=0.12; extra == "dev"',
    ),
    installed={
        "huggingface_hub": "1.2.0",
        "pydantic": "2.12.0",
        "torch": "2.9.1+cpu",
        "trl": "1.17.2",
        "jinja2": "3.1.6",
    },
    shipped=True,
    readings=Readings(devices=(CARD,)),
    caches=(
        CacheFolder(what="cache of counts and programs", path="~/.cache/vramplan", writable=True, free_bytes=GIB),
        CacheFolder(what="the Hub's cache of models", path="/data/\x1b[31mhub", writable=False, free_bytes=9 * GIB),
    ),
)


def test_a_machine_half_set_up_is_told_what_to_install() -> None:
    assert_golden("doctor.txt", doctor_text(findings(HERE), width=100))


def test_what_planning_needs_decides_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(here: Installation) -> tuple[int, dict[str, object]]:
        monkeypatch.setattr("vramplan.planner.cli.doctor.read_installation", lambda online: here)
        return run_command(["doctor", "--json"]), json.loads(capsys.readouterr().out)

    code, answer = told(HERE)
    assert (code, answer["planning"], answer["running"]) == (0, True, False)
    old = HERE.model_copy(update={"installed": HERE.installed | {"pydantic": "2.8.1"}})
    code, answer = told(old)
    assert (code, answer["planning"], answer["running"]) == (1, False, False)
    for changes in ({"python": "3.10.4"}, {"shipped": False}, {"installed": {}}):
        assert told(HERE.model_copy(update=changes))[0] == 1


def test_whether_the_hub_answers_is_asked_on_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def model_info(self: object, repo_id: str, **options: object) -> None:
        asked.append(repo_id)
        raise OSError("no route to hf_averysecrettoken@example.org")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    assert read_installation().hub is None
    assert asked == []
    here = read_installation(online=True)
    assert here.hub == "OSError"
    assert "out of reach (OSError)" in doctor_text(findings(here), width=100)


def test_this_machine_can_plan() -> None:
    here = read_installation()
    assert {"huggingface_hub", "nvidia-ml-py", "torch"} <= {name.partition("[")[0] for name in _names(here)}
    assert all(each.ok for each in findings(here) if each.needed_for == "planning")


def _names(here: Installation) -> set[str]:
    return {each.name for each in findings(here)}
