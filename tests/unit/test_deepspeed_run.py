"""What differs in a run under DeepSpeed, without DeepSpeed."""

from types import SimpleNamespace
from typing import Any

import pytest

from vramplan.executor import deepspeed_here, deepspeed_run
from vramplan.planner.errors import UnsupportedError


def plan(sharding: str) -> Any:
    return SimpleNamespace(setup=SimpleNamespace(sharding=sharding))


def test_without_deepspeed_a_plan_of_it_is_refused_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepspeed_here.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match="--sharding zero2 runs under DeepSpeed") as refused:
        deepspeed_here.check_installed(plan("zero2"))
    assert "pip install deepspeed" in (refused.value.remedy or "")
    deepspeed_here.check_installed(plan("fsdp"))


def test_a_stopped_run_without_checkpoints_is_begun_again() -> None:
    assert "again" in deepspeed_here.how_to_go_on(plan("zero1"))
    assert "--resume" in deepspeed_here.how_to_go_on(plan("none"))


def test_a_step_inside_the_backward_is_told_before_it_happens() -> None:
    heard: list[str] = []
    engine = SimpleNamespace(step=lambda: heard.append("step"))
    deepspeed_run.tell_before_step(engine, lambda: heard.append("optimizer_step"))
    engine.step()
    assert heard == ["optimizer_step", "step"]


@pytest.mark.parametrize(("norm", "refused"), [(0.5, False), (0.0, True), (None, True)])
def test_gradients_that_are_gone_are_known_by_their_norm(norm: float | None, refused: bool) -> None:
    found = deepspeed_run.check_gradients(SimpleNamespace(get_global_grad_norm=lambda: norm))
    assert bool(found) == refused
