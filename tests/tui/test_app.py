"""The app from the first screen to a finished run, at the smallest terminal and a wide one, on a scripted core."""

import threading
from typing import Any

import pytest
from textual.widgets import RichLog

from tests.fakes import make_device
from tests.golden_text import assert_golden
from tests.tui.driving import Driver, driving, screen_text
from tests.tui.fake_core import PARAMS, FakeCore, script
from vramplan.executor.checks import Check
from vramplan.executor.events import Failed, Progress, Step
from vramplan.planner.errors import GatedModelError, NoProgramError, OfflineError
from vramplan.tui.choice import Choice, Priced
from vramplan.tui.core import Core
from vramplan.tui.more_knobs import all_knobs
from vramplan.tui.state import EVENTS_KEPT, LOSSES_KEPT
from vramplan.tui.widgets.knob_list import KnobList

SIZES = [(80, 24), (120, 40), (200, 60)]
COMMAND = "vramplan plan fake/llama-8b --device auto --method qlora -o runs/fake/plan.json"


async def to_budget(driver: Driver) -> None:
    """Take the largest QLoRA model."""
    await driver.wait("fake/llama-8b")
    await driver.wait(lambda: len(driver.app.screen.query_one("#tunable").rows) == 3)  # type: ignore[attr-defined]
    await driver.press("j", "j", "enter", until="qlora               ›  set")
    await driver.wait("headroom")


async def to_run(driver: Driver) -> None:
    """Save a QLoRA plan and open the run screen."""
    await to_budget(driver)
    await driver.press("6", until="not saved yet")
    await driver.press("s", until="written: runs/fake/plan.json")
    await driver.press("7", until="ready: r starts")


def test_the_fake_is_a_core() -> None:
    core: Core = FakeCore()
    assert core.devices()


@pytest.mark.parametrize("size", SIZES)
async def test_from_the_first_screen_to_a_finished_run(size: tuple[int, int]) -> None:
    core = FakeCore()
    async with driving(core, size) as driver:
        name = f"app_{size[0]}"
        assert_golden(f"{name}_1_model.txt", await driver.settle("7.47"))
        await driver.press("2", until="H100 SXM 80 GB")
        assert_golden(f"{name}_2_hardware.txt", await driver.settle("held by"))
        await driver.press("3", until="no training file")
        assert_golden(f"{name}_3_workload.txt", await driver.settle("matters"))
        await driver.press("1")
        await to_budget(driver)
        assert_golden(f"{name}_4_budget.txt", await driver.settle("7.47"))
        await driver.press("n", until="a fake reason for lora")
        await driver.press("j")
        assert_golden(f"{name}_5_compare.txt", await driver.settle("a fake reason for qlora"))
        await driver.press("enter", until="not saved yet")
        await driver.press("s")
        assert_golden(f"{name}_6_plan.txt", await driver.settle("written: runs/fake/plan.json"))
        await driver.press("7")
        assert_golden(f"{name}_7_checks.txt", await driver.settle("ready: r starts the run"))
        await driver.press("r", until="Run runs/fake/plan.json now?")
        await driver.press("y")
        assert_golden(f"{name}_7_run.txt", await driver.settle("done: 8 sets the estimate"))
        await driver.press("8")
        assert_golden(f"{name}_8_runs.txt", await driver.settle("measured by"))
        await driver.press("c", until="‹runs/fake›")
        await driver.type("hello")
        await driver.press("enter", until="olleh")
        assert_golden(f"{name}_9_chat.txt", await driver.settle("olleh"))
    assert [choice.knobs.method for choice in core.saved] == ["qlora"]


@pytest.mark.parametrize(
    ("downs", "knob", "value"),
    [
        (0, "method", "full"),
        (1, "sequence_length", 2048),
        (2, "micro_batch", 2),
        (3, "rank", 32),
        (4, "gradient_checkpointing", False),
        (5, "optimizer", "adamw_8bit"),
    ],
)
async def test_every_option_prices_anew_at_once(downs: int, knob: str, value: Any) -> None:
    core = FakeCore()
    async with driving(core) as driver:
        await to_budget(driver)
        before = len(core.priced)
        await driver.press(*["j"] * downs, "l", until=lambda: len(core.priced) > before)
        assert getattr(core.priced[-1], knob) == value
        await driver.wait("headroom")
        await driver.press("backspace", until=lambda: getattr(driver.app.state.choice.knobs, knob) is None)


@pytest.mark.parametrize(
    ("name", "keys", "value"),
    [
        ("use_rslora", ["l"], True),
        ("target", ["enter", *"q_proj", "enter"], "q_proj"),
        ("quant", ["l"], "fp4"),
        ("learning_rate", ["enter", *"1e-4", "enter"], "1e-4"),
        ("reserve", ["l"], "1GiB"),
        ("interconnect", ["enter", *"pcie4", "enter"], "pcie4"),
        ("prefer", ["enter", *"memory,cost", "enter"], "memory,cost"),
        ("latency_budget", ["enter", *"0.05", "enter"], 0.05),
    ],
)
async def test_each_further_option_of_the_command_line_prices_anew_at_once(
    name: str, keys: list[str], value: Any
) -> None:
    core = FakeCore()
    async with driving(core) as driver:
        await to_budget(driver)
        await driver.press("a")
        knobs, before = driver.app.screen.query_one(KnobList), len(core.priced)
        knobs.cursor = [knob.name for knob in all_knobs("budget")].index(name)
        names = {",": "comma", ".": "full_stop", "-": "minus", "_": "underscore"}
        await driver.press(*(names.get(key, key) for key in keys), until=lambda: len(core.priced) > before)
        assert core.priced[-1].value(name) == value
        await driver.wait("1.00 GiB kept back" if name == "reserve" else "headroom")
        await driver.press("backspace", until=lambda: driver.app.state.choice.knobs.value(name) is None)
        await driver.press("a", until="  sequence length")


async def test_a_wide_screen_lists_as_many_options_as_it_has_room_for() -> None:
    async with driving(FakeCore(), (200, 60)) as driver:
        await to_budget(driver)
        text = await driver.press("a", until="virtual tokens")
        assert "completion only" not in text
        assert "  gradient accumu…   16 " in text
        await driver.press("a", until=lambda: "virtual tokens" not in screen_text(driver.app))


async def test_an_exact_value_can_be_typed_and_nonsense_is_refused_in_a_line() -> None:
    core = FakeCore()
    async with driving(core) as driver:
        await to_budget(driver)
        await driver.press("j", "enter", until="sequence length (empty: the default)")
        await driver.type("q0")
        await driver.press("enter", until="✗ sequence length is a whole number from 1 up, not 'q0'")
        await driver.press("backspace", "backspace")
        await driver.type("777")
        await driver.press("enter", until=lambda: bool(core.priced) and core.priced[-1].sequence_length == 777)


async def test_letters_typed_into_the_search_box_are_only_text() -> None:
    async with driving(FakeCore()) as driver:
        await driver.press("slash", *"qdy?1", until="open qdy?1 as a folder or a Hub id")
        assert driver.step == "model"
        screen: Any = driver.app.screen
        await driver.press("escape", until=lambda: screen.focused is not screen.query_one("#query"))


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (OfflineError("the Hub cannot be reached", remedy="use a catalogue model"), "use a catalogue model"),
        (GatedModelError("meta-llama/X is gated", remedy="ask for access on its page"), "ask for access on its page"),
        (RuntimeError("boom [red]"), "✗ unexpected RuntimeError: boom [red]"),
    ],
)
async def test_a_model_that_cannot_be_read_is_one_line_with_the_remedy(error: Exception, shown: str) -> None:
    async with driving(FakeCore(errors={"resolve_model": error})) as driver:
        await driver.press("slash", *"a/b", until="open a/b")
        text = await driver.press("enter", until=shown)
        assert "Traceback" not in text
        assert driver.step == "model"


async def test_a_setup_without_a_price_says_why_and_cannot_be_saved() -> None:
    core = FakeCore(errors={"price": NoProgramError("no memory program for this", remedy="install the train extra")})
    async with driving(core) as driver:
        await driver.wait("fake/llama-8b")
        await driver.press("enter", until="no memory program for this — install the train extra")
        await driver.press("6", until="not saved yet")
        await driver.press("s", until="no memory program for this")
        assert core.saved == []


async def test_what_is_not_possible_yet_says_what_is_missing() -> None:
    async with driving(FakeCore()) as driver:
        await driver.press("5", until="choose a model first (1)")
        await driver.press("7", until="save the plan first (6, then s)")
        await driver.press("8", until="interrupted after 12 steps")
        await driver.press("1")
        assert driver.step == "model"


async def test_names_are_shown_literally_and_control_characters_are_inert() -> None:
    device = make_device(name="card [bold]\x1b[31mred\x07 [/]")
    async with driving(FakeCore(device=device)) as driver:
        text = await driver.wait("card [bold]\\x1b[31mred\\x07 [/]")
        assert "fake/odd[red]name" in text


async def test_another_device_is_picked_by_name_and_everything_is_priced_for_it() -> None:
    core = FakeCore()
    async with driving(core) as driver:
        await to_budget(driver)
        await driver.press("d", until="H100 SXM 80 GB")
        await driver.type("hopp")
        await driver.wait("nothing is called hopp")
        await driver.press(*["backspace"] * 4)
        await driver.type("h100")
        await driver.press("enter", until="H100 SXM 80 GB · 79.00 GiB (profile)")
        await driver.wait("headroom 70.53")
        await driver.press("y", until="--device 'H100 SXM 80 GB'")


async def test_a_device_list_that_is_read_again_as_the_app_closes_is_no_error() -> None:
    async with driving(FakeCore()) as driver:
        await to_budget(driver)
        await driver.press("d", until="H100 SXM 80 GB")
        screen: Any = driver.app.screen
    screen._read_again()  # its timer's last tick may come when no screen is left


async def test_a_bare_size_stands_in_for_a_device() -> None:
    async with driving(FakeCore()) as driver:
        await to_budget(driver)
        await driver.press("d", until="H100")
        await driver.type("12GiB")
        await driver.wait("any CUDA card with 12.00 GiB")
        await driver.press("enter", until="12GiB · 12.00 GiB (memory)")
        await driver.press("y", until="--memory 12884901888")


async def test_the_command_line_holds_what_was_set_and_nothing_else() -> None:
    async with driving(FakeCore()) as driver:
        await to_budget(driver)
        await driver.wait("headroom")
        await driver.press("y", until="copied")
        assert driver.app.clipboard == COMMAND


async def test_a_run_that_fails_shows_its_reason_and_remedy() -> None:
    events = (*script()[:4], Failed(time=2.0, message="CUDA out of memory", remedy="halve the micro batch"))
    async with driving(FakeCore(events=events)) as driver:
        await to_run(driver)
        await driver.press("r", "y", until="✗ CUDA out of memory — halve the micro batch")


async def test_a_child_that_dies_without_a_word_is_a_failed_run() -> None:
    async with driving(FakeCore(events=script()[:4])) as driver:
        await to_run(driver)
        await driver.press("r", "y", until="the training process ended without a report")


async def test_a_run_that_cannot_start_is_a_failed_run() -> None:
    async with driving(FakeCore(errors={"launch": OSError("no such interpreter")})) as driver:
        await to_run(driver)
        await driver.press("r", "y", until="✗ unexpected OSError: no such interpreter")


async def test_a_blocking_check_stops_the_run_before_it_starts() -> None:
    core = FakeCore(checks=[Check(name="data", verdict="blocks", found="the plan names no file", remedy="set one")])
    async with driving(core) as driver:
        await to_budget(driver)
        await driver.press("6", until="not saved yet")
        await driver.press("s", until="written")
        await driver.press("r", until="may not run: set one")
        await driver.press("r", until="may not run: set one")
        assert driver.app.state.run is None


async def test_stopping_asks_and_then_waits_for_the_childs_last_word() -> None:
    core = FakeCore(hold_after=4)
    async with driving(core) as driver:
        await to_run(driver)
        await driver.press("r", "y", until="step 1 of 3")
        await driver.press("x", until="Stop the run?")
        await driver.press("n", until="running")
        assert not core.stopped.is_set()
        await driver.press("x", "y", until="stopped as asked")
        await driver.wait(lambda: driver.app.state.run is not None and driver.app.state.run.status == "interrupted")


async def test_a_run_is_paused_goes_on_and_saves_when_asked_to() -> None:
    core = FakeCore(hold_after=4)
    async with driving(core, (120, 40)) as driver:
        await to_run(driver)
        await driver.press("p", until="no run is under way")
        await driver.press("r", "y", until="step 1 of 3")
        await driver.press("c", until="saved runs/fake/checkpoint-1")
        text = await driver.press("p", until="paused after step 1")
        assert "p goes on; what is trained so far is saved, the memory stays taken" in text
        await driver.press("c", until="where it is paused, it is saved")
        text = await driver.press("p", until="going on after a pause of 0:01:00")
        assert "p goes on" not in text
        assert "running  step 1 of 3" in text
        await driver.press("p", until="paused  step 1 of 3")
        await driver.press("x", "y", until="stopped as asked")
        await driver.wait(lambda: driver.app.state.run is not None and driver.app.state.run.status == "interrupted")


async def test_leaving_during_a_run_asks_first_and_stops_it() -> None:
    core = FakeCore(hold_after=4)
    async with driving(core) as driver:
        await to_run(driver)
        await driver.press("r", "y", until="step 1 of 3")
        await driver.press("q", until="Stop it and leave?")
        await driver.press("escape", until="step 1 of 3")
        assert driver.app.is_running
        await driver.press("q", "y", until=lambda: core.stopped.is_set() and not driver.app.is_running)


async def test_a_run_goes_on_while_another_screen_is_looked_at() -> None:
    core = FakeCore(hold_after=4)
    async with driving(core) as driver:
        await to_run(driver)
        await driver.press("r", "y", until="step 1 of 3")
        await driver.press("4", until="sequence length")
        await driver.press("d", until="H100")
        await driver.press("enter", until="a run is under way")
        await driver.press("escape", "7", until="step 1 of 3")


async def test_escape_goes_back_the_way_one_came_and_help_lists_the_keys() -> None:
    async with driving(FakeCore()) as driver:
        await to_budget(driver)
        await driver.press("5", until="a fake reason")
        await driver.press("question_mark", until="name the device to plan for")
        await driver.press("pagedown", until="copy the equivalent command line")
        await driver.press("escape", until=lambda: driver.step == "compare")
        await driver.press("escape", until=lambda: driver.step == "budget")
        await driver.press("escape", until=lambda: driver.step == "model")
        await driver.press("escape")
        assert driver.step == "model"


async def test_without_a_device_the_screen_says_how_to_name_one() -> None:
    core = FakeCore()
    core.default_device = lambda: (None, "no accelerator here: name one with --device")  # type: ignore[method-assign]
    async with driving(core) as driver:
        await driver.wait("no accelerator here")
        await driver.press("slash", *"8b", "enter", until="no verdict")


async def test_changes_of_options_are_undone_and_done_again() -> None:
    async with driving(FakeCore()) as driver:
        await to_budget(driver)

        def rank() -> int | None:
            return driver.app.state.choice.knobs.rank

        await driver.press("u", until="nothing to undo")
        await driver.press("j", "j", "j", "l", until=lambda: rank() == 32)
        await driver.press("l", until=lambda: rank() == 64)
        await driver.press("u", until=lambda: rank() == 32)
        await driver.press("u", until=lambda: rank() is None)
        await driver.press("U", until=lambda: rank() == 32)
        await driver.press("backspace", until=lambda: rank() is None)
        await driver.press("U", until="nothing to redo")
        await driver.press("u", until=lambda: rank() == 32)


async def test_what_is_allocated_is_shown_while_the_price_is_worked_out() -> None:
    core = FakeCore()
    waiting, priced = threading.Event(), core.price

    def slow(choice: Choice) -> Priced:
        waiting.wait(timeout=10.0)  # only so that a broken app does not hang the test
        return priced(choice)

    core.price = slow  # type: ignore[method-assign]
    async with driving(core) as driver:
        await driver.wait("fake/llama-8b")
        text = await driver.press("enter", until="pricing   peak from")
        assert "the weights of a fake" in text
        waiting.set()
        await driver.wait("headroom")


async def test_a_turned_option_is_a_repaint_and_never_a_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    core = FakeCore()
    async with driving(core, (120, 40)) as driver:
        await to_budget(driver)
        await driver.press("j", "l", until=lambda: driver.app.state.priced is not None and bool(driver.app.state.undo))
        await driver.settle("headroom")
        laid_out: list[object] = []
        monkeypatch.setattr(driver.app.screen, "_refresh_layout", lambda *args, **named: laid_out.append(args))
        for length, key in ((4096, "l"), (2048, "h"), (4096, "l")):
            await driver.press(key, until=lambda length=length: core.priced[-1].sequence_length == length)  # type: ignore[misc]
            await driver.settle("headroom")
        assert laid_out == []


async def test_what_a_setup_costs_is_looked_at_in_four_ways() -> None:
    async with driving(FakeCore()) as driver:
        await to_budget(driver)
        assert "B/param" in await driver.settle("‹ledger›")
        assert "optimizer step" in await driver.press("v", until="‹phases›")
        assert "(B*S, ff) bf16 layers.mlp.down_proj" in await driver.press("v", until="‹tensors›")
        assert "in backward, layer 3" in await driver.press("v", until="‹step›")
        await driver.press("v", until="‹ledger›")


async def test_methods_are_sorted_and_those_that_do_not_fit_left_out() -> None:
    async with driving(FakeCore()) as driver:
        await to_budget(driver)
        text = await driver.press("5", until="a fake reason for lora")
        assert text.index("lora r=16") < text.index("qlora r=16")
        text = await driver.press("o", until="sorted: least memory first")
        assert text.index("qlora r=16") < text.index("full ") < text.index("prefix ")
        text = await driver.press("f", until="only what fits: 2 of 4")
        assert "prefix" not in text
        await driver.press("f", until="prefix")


async def test_a_stopped_run_goes_on_from_its_checkpoint() -> None:
    core = FakeCore()
    async with driving(core) as driver:
        await driver.press("8", until="checkpoint at step 10")
        await driver.press("y", until="copied: vramplan run runs/stopped/plan.json --resume")
        await driver.press("r", until="Go on with runs/stopped from step 10?")
        await driver.press("y", until="done: 8 sets the estimate")
        await driver.press("8", until=lambda: driver.step == "runs")
        await driver.settle("runs")
        await driver.press("r", until="nothing to go on from: runs/fake is done")
    assert [(saved.path, resume) for saved, resume in core.launched] == [("runs/stopped/plan.json", True)]


async def test_ten_thousand_events_leave_the_run_as_quick_as_it_was() -> None:
    said = [Progress(time=float(n), what=f"event {n} [red]", fraction=None) for n in range(10_000)]
    events = (*script()[:4], *said, *script()[4:])
    async with driving(FakeCore(events=events), patience_seconds=120.0) as driver:
        await to_run(driver)
        await driver.press("r", "y", until="done: 8 sets the estimate")
        run = driver.app.state.run
        assert run is not None
        assert (run.num_logged, len(run.log)) == (10_005, EVENTS_KEPT)
        assert len(driver.app.screen.query_one("#events", RichLog).lines) <= EVENTS_KEPT


async def test_a_thousand_events_cost_as_much_after_ten_thousand_as_at_the_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with driving(FakeCore(hold_after=4), (120, 40)) as driver:
        await to_run(driver)
        await driver.press("r", "y", until="step 1 of 3")
        app, log, written, cost = driver.app, driver.app.screen.query_one(RichLog), [], []
        write = RichLog.write
        monkeypatch.setattr(RichLog, "write", lambda *args: written.append(args) or write(*args))
        step = next(event for event in script() if isinstance(event, Step))
        for last in range(999, 10_000, 1000):
            run = app.state.run
            assert run is not None
            for n in range(last - 999, last + 1):
                run = run.after(Progress(time=float(n), what=f"event {n}")).after(step)
            written.clear()
            app.change(app.state.model_copy(update={"run": run}))
            await driver.wait(f"event {last}")
            cost.append((len(written), len(log.lines), len(app.screen.query("*")), len(run.log), len(run.losses)))
    assert set(cost) == {(EVENTS_KEPT, EVENTS_KEPT, cost[0][2], EVENTS_KEPT, LOSSES_KEPT)}


@pytest.mark.parametrize("size", [(200, 60), (80, 24), (20, 5)])
async def test_a_run_is_watched_through_a_change_of_the_terminals_size(size: tuple[int, int]) -> None:
    async with driving(FakeCore(hold_after=4), (120, 40)) as driver:
        await to_run(driver)
        await driver.press("r", "y", until="step 1 of 3")
        await driver.pilot.resize_terminal(*size)
        await driver.wait(lambda: driver.app.size == size)
        await driver.pilot.resize_terminal(100, 30)
        await driver.press("4", until="sequence length")
        await driver.pilot.resize_terminal(*size)
        await driver.press("7", until=lambda: driver.step == "run")
        await driver.pilot.resize_terminal(80, 24)
        await driver.wait("step 1 of 3")


async def test_from_a_typed_name_to_a_saved_plan_in_three_keys_and_to_a_run_in_two_more() -> None:
    core = FakeCore()
    async with driving(core) as driver:
        await driver.press("slash")
        await driver.type("llama-8b")
        await driver.press("enter", until="headroom")
        await driver.press("6", until="not saved yet")
        await driver.press("s", until="written: runs/fake/plan.json")
        await driver.press("r", until="Run runs/fake/plan.json now?")
        await driver.press("y", until="done: 8 sets")
    assert len(core.saved) == 1


async def test_names_from_outside_are_shown_letter_by_letter_whatever_they_hold() -> None:
    name = "org/[bold]m[/] 🦙 نموذج"
    PARAMS[name] = 10**6
    try:
        async with driving(FakeCore()) as driver:
            await driver.press("slash", *"نموذج", until=name)
            await driver.press("enter", until=f" {name} ")
            await driver.press("6", until="not saved yet")
            await driver.press("s", until="written")
    finally:
        del PARAMS[name]
