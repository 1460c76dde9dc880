"""What each screen does beside the straight way through, on a scripted core: hardware, data, the Hub, plans, chat."""

from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input

from tests.fakes import make_device, make_plan
from tests.tui.driving import Driver, driving, screen_text
from tests.tui.fake_core import FakeCore, spec
from tests.tui.test_app import to_budget, to_run
from vramplan.executor.checks import Check
from vramplan.executor.runs import PastRun
from vramplan.planner.device import Device, Holder
from vramplan.planner.errors import BadDataError, GatedModelError, OfflineError, RunError
from vramplan.planner.plan import Plan, Stage
from vramplan.planner.stages import with_later_stages
from vramplan.planner.units import GIB
from vramplan.tui.bindings import STEPS
from vramplan.tui.choice import Choice, Knobs
from vramplan.tui.command_line import recommend_command
from vramplan.tui.hints import HINTS
from vramplan.tui.remembered import RECENT_KEPT, Recent, Remembered, read_remembered, write_remembered
from vramplan.tui.screens import hardware


async def to_runs(driver: Driver) -> None:
    """Run a plan to its end and open the list of runs."""
    await to_run(driver)
    await driver.press("r", "y", until="done: 8 sets")
    await driver.press("8", until="measured by")


async def test_what_is_here_is_read_again_and_again_and_a_driver_that_goes_is_said_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hardware, "REFRESH_SECONDS", 0.05)
    core = FakeCore()
    async with driving(core) as driver:
        await driver.press("2", until="held by nobody the driver names")
        holder = Holder(pid=4711, name="python [red]", used_bytes=20 * GIB)
        core.device = make_device(free_bytes=3 * GIB, holders=(holder,))
        text = await driver.wait("held by python [red] 4711: 20.00")
        assert " 3.00  24.00" in text

        def gone() -> tuple[Device, ...]:
            raise RunError("the driver does not answer", remedy="see dmesg")

        core.devices = gone  # type: ignore[method-assign]
        text = await driver.wait("✗ the driver does not answer — see dmesg")
        assert " 3.00  24.00" in text


async def test_the_choice_is_priced_on_several_products_beside_each_other() -> None:
    async with driving(FakeCore(), (140, 40)) as driver:
        await driver.press("2", until="RTX 3060 12 GB")
        await driver.press("space", until="choose a model first (1)")
        await driver.press("1")
        await to_budget(driver)
        await driver.press("2", *["j"] * 2, "space", until="fits, up to 8.47 GiB")
        await driver.press("j", "space", until=lambda: screen_text(driver.app).count("up to 8.47 GiB") == 2)
        await driver.press("o", "l", until=lambda: driver.app.state.choice.knobs.gpus == 2)


async def test_a_training_file_is_picked_from_what_is_there_and_its_rows_are_drawn_by_length() -> None:
    async with driving(FakeCore(), (120, 40)) as driver:
        await to_budget(driver)
        await driver.press("3", until="no training file")
        text = await driver.press("f", until="train.jsonl")
        assert "[red]odd/" in text
        await driver.press("down", "j", "enter", until="up to 1,000")
        text = await driver.settle("half up to 100 tokens")
        assert driver.app.state.choice.knobs.data == "train.jsonl"
        assert next(line.split()[-1] for line in text.splitlines() if "up to" in line) == "60"


async def test_a_file_that_cannot_be_read_is_one_line_with_the_remedy() -> None:
    errors: dict[str, Exception] = {"measure": BadDataError("row 3 is no object", remedy="mend it")}
    async with driving(FakeCore(errors=errors)) as driver:
        await to_budget(driver)
        await driver.press("3", "f", until="training file (empty")
        await driver.type("rows.jsonl")
        await driver.press("enter", until="✗ row 3 is no object — mend it")
        await driver.wait("not measured")


async def test_what_matters_reaches_the_comparison_and_its_command_and_no_plan() -> None:
    knobs = Knobs(rank=8, prefer="memory", must_merge=True, keep_knowledge=False, num_train_epochs=2.5)
    command = recommend_command(Choice(model=spec("fake/llama-8b"), knobs=knobs))
    assert command == ("vramplan recommend fake/llama-8b --rank 8 --num-train-epochs 2.5 --prefer memory --must-merge")
    async with driving(FakeCore()) as driver:
        await to_budget(driver)
        await driver.press("3", *["j"] * 7, "l", "l", until=lambda: driver.app.state.choice.knobs.prefer == "speed")
        await driver.press("5", until="a fake reason")
        await driver.press("y", until="copied: vramplan recommend")
        assert "--prefer speed" in driver.app.clipboard
        await driver.press("6", "y", until="copied: vramplan plan")
        assert "--prefer" not in driver.app.clipboard


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (OfflineError("the Hub cannot be reached", remedy="use a catalogue model"), "use a catalogue model"),
        (GatedModelError("hub/x is gated", remedy="ask for access"), "ask for access"),
        (None, "3.00 B              12,345  apache-2.0, ga"),
    ],
)
async def test_the_hub_is_searched_when_asked_and_says_what_is_wrong(error: Exception | None, shown: str) -> None:
    core = FakeCore(errors={} if error is None else {"search_hub": error})
    async with driving(core) as driver:
        await driver.press("slash", *"qwen")
        await driver.press("down", "h", until=shown)


async def test_the_card_of_the_model_under_the_cursor_is_shown() -> None:
    async with driving(FakeCore()) as driver:
        await driver.wait("fake/llama-70b")
        await driver.press("i", until="4-bit loading packs")
        await driver.press("y", until="copied: vramplan estimate fake/llama-1b --device auto --method full")
        await driver.press("slash", "down", "y", until="copied: vramplan models fake/llama-70b")


async def test_what_was_looked_at_last_is_offered_again_with_its_options() -> None:
    core = FakeCore()
    async with driving(core) as driver:
        await to_budget(driver)
        await driver.press("2", *["j"] * 2, "enter", until="H100 SXM 80 GB · 79.00")
        assert (core.kept.device, [each.model for each in core.kept.recent]) == ("H100 SXM 80 GB", ["fake/llama-8b"])
    core.kept = core.kept.having(Recent(model="fake/llama-1b", knobs=Knobs(method="lora", rank=4)))
    async with driving(core) as driver:
        await driver.wait("H100 SXM 80 GB · 79.00")
        text = await driver.press("r", until="recent: fake/llama-1b")
        assert text.index("recent: fake/llama-1b") < text.index("recent: fake/llama-8b")
        await driver.press("enter", until="headroom")
        assert driver.app.state.choice.knobs == Knobs(method="lora", rank=4)


def test_the_memory_is_a_file_in_the_configuration_folder_and_a_damaged_one_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    kept = Remembered(device="RTX 4090", theme="nord", hinted=("model",))
    for number in range(RECENT_KEPT + 5):
        kept = kept.having(Recent(model=f"m{number}", knobs=Knobs(rank=8)))
    kept = kept.having(Recent(model="m9"))
    write_remembered(kept)
    assert read_remembered() == kept
    assert [each.model for each in kept.recent][:3] == ["m9", "m14", "m13"]
    assert len(kept.recent) == RECENT_KEPT
    for damage in ("", "{", '{"recent": 1}', '{"from": "the future"}'):
        (tmp_path / "vramplan" / "app.json").write_text(damage)
        assert read_remembered() == Remembered()


async def test_a_first_visit_to_a_screen_has_a_hint_and_the_next_has_none() -> None:
    assert set(HINTS) == {name for name, _ in STEPS}
    core = FakeCore(kept=Remembered())
    async with driving(core) as driver:
        await driver.wait(HINTS["model"])
        await driver.press("2", until="H100")
        await driver.wait(HINTS["hardware"][:60])
    assert core.kept.hinted == ("model", "hardware")
    async with driving(core) as driver:
        assert HINTS["model"] not in await driver.settle("7.47")


async def test_a_plan_is_set_beside_another_and_written_for_another_engine() -> None:
    core = FakeCore()
    async with driving(core, (120, 40)) as driver:
        await to_budget(driver)
        await driver.press("6", until="not saved yet")
        await driver.press("c", until="save the plan first (6, then s)")
        await driver.press("s", until="written")
        await driver.press("c", until="another plan file")
        await driver.type("x/plan.json")
        text = await driver.press("enter", until="there: fake/llama-1b")
        assert "setup.method.kind" in text
        await driver.press("e", until="a batch job")
        await driver.press("j", "enter", until="written: runs/fake/export-slurm/train.py")
    assert core.exported == ["slurm"]


async def test_a_finished_run_is_merged_once_confirmed_and_an_unfinished_one_is_not() -> None:
    core = FakeCore()
    async with driving(core) as driver:
        await to_runs(driver)
        await driver.press("m", until="Merge the adapter of runs/fake")
        await driver.press("n", until=lambda: driver.step == "runs")
        assert core.merged == []
        await driver.press("m", "y", until="written: runs/fake/merged")
        await driver.press("j", "m", until="nothing to merge")
        await driver.press("c", until="nobody to talk to: runs/stopped has not finished")
        await driver.press("space", until="• stopped")
    assert core.merged == ["runs/fake"]


def two_stages() -> Plan:
    plan = make_plan(model=spec("fake/llama-1b"))
    names = ("workload", "setup", "recipe", "budget", "verdict", "program")
    stage = Stage(trainable_params=7, **{name: getattr(plan, name) for name in names})
    return with_later_stages(plan, (stage,))


@pytest.mark.parametrize(
    ("status", "asks", "paths"),
    [
        ("planned", "Run runs/two/plan.json now?", ["runs/two/plan.json", "runs/two/stage-2/plan.json"]),
        ("done", "Go on with the second stage of runs/two?", ["runs/two/stage-2/plan.json"]),
    ],
)
async def test_a_plan_of_two_stages_is_begun_or_gone_on_with_to_its_end(
    status: Any, asks: str, paths: list[str]
) -> None:
    core = FakeCore(past=[PastRun(folder="runs/two", plan=two_stages(), status=status)])
    async with driving(core) as driver:
        await driver.press("8", until=f"runs/two is {status}")
        await driver.press("r", until=asks)
        await driver.press("y", until=lambda: len(core.launched) == len(paths))
        await driver.wait("done: 8 sets the estimate")
    assert [(saved.path, resume) for saved, resume in core.launched] == [(path, False) for path in paths]


async def test_a_merge_that_fails_between_two_stages_ends_the_run_with_its_reason() -> None:
    errors: dict[str, Exception] = {"next_stage": RunError("no room for the merged model", remedy="free 3 GiB")}
    core = FakeCore(past=[PastRun(folder="runs/two", plan=two_stages(), status="planned")], errors=errors)
    async with driving(core) as driver:
        await driver.press("8", until="planned")
        await driver.press("r", "y", until="✗ no room for the merged model — free 3 GiB")
        run = driver.app.state.run
        assert run is not None
        assert run.status == "failed"


async def test_a_planned_run_that_may_not_begin_says_why() -> None:
    checks = [Check(name="data", verdict="blocks", found="the plan names no file", remedy="set one")]
    core = FakeCore(past=[PastRun(folder="runs/two", plan=two_stages(), status="planned")], checks=checks)
    async with driving(core) as driver:
        await driver.press("8", until="planned")
        await driver.press("r", until="✗ may not run: set one")
    assert core.launched == []


async def test_a_chat_switches_adapters_and_its_process_ends_with_it() -> None:
    core = FakeCore()
    async with driving(core) as driver:
        await driver.press("9", until="nobody to talk to yet")
        await driver.press("1")
        await to_runs(driver)
        await driver.press("c", until="‹runs/fake›")
        await driver.type("[red] hi")
        await driver.press("enter", until="ih ]der[")
        await driver.press("escape", "n", until="‹base›")
        await driver.press("y", until="copied: vramplan chat runs/fake")
        await driver.press("x", "l", "e", until="nobody to talk to yet")
        assert core.chats[0].stopped
        assert core.chats[0].closed
        await driver.press("escape", "c", until="‹runs/fake›")
    assert core.chats[1].closed


async def test_a_chat_whose_process_is_killed_says_so_and_another_can_be_begun() -> None:
    core = FakeCore(errors={"answer": RunError("killed by SIGKILL", remedy="free memory")})
    async with driving(core) as driver:
        await to_runs(driver)
        await driver.press("c", until="‹runs/fake›")
        await driver.type("hello")
        await driver.press("enter", until="olleh ✗ killed by SIGKILL — free memory")
        await driver.wait(lambda: core.chats[0].closed)
        await driver.press("tab", "8", until="measured by")
        await driver.press("c", until=lambda: len(core.chats) == 2)


async def test_a_price_that_takes_long_can_be_given_up() -> None:
    from threading import Event

    core, wait, price = FakeCore(), Event(), FakeCore().price
    core.price = lambda choice: wait.wait(10.0) and price(choice)  # type: ignore[method-assign,assignment,return-value]
    async with driving(core) as driver:
        await driver.press("ctrl+x", until="nothing is being worked out")
        await driver.wait("fake/llama-8b")
        await driver.press("enter", until="pricing   peak from")
        await driver.press("ctrl+x", until="given up; turn an option to price it again")
        wait.set()
        await driver.press("j", "l", until="headroom")


async def test_letters_typed_into_the_prompt_of_a_chat_are_only_text() -> None:
    async with driving(FakeCore()) as driver:
        await driver.press("9", "slash", *"qnx?1")
        assert driver.app.screen.query_one("#prompt", Input).value == "qnx?1"
        assert driver.step == "chat"
