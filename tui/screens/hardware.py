"""Screen 2: what is here and who holds its memory, every product with a data sheet, and how many of it."""

from collections.abc import Iterable

from rich.text import Text
from textual import events, on, work
from textual.widget import Widget
from textual.widgets import Input, Static

from vramplan.planner.cli.devices import bf16_teraflops, gigabytes_a_second, held_by
from vramplan.planner.device import Device, DeviceProfile
from vramplan.planner.units import format_bytes, format_gib, parse_bytes
from vramplan.tui.bindings import bindings
from vramplan.tui.messages import DeviceChosen
from vramplan.tui.screens.step import StepScreen
from vramplan.tui.state import State
from vramplan.tui.text import cell, describe_error, gib, line
from vramplan.tui.theme import VERDICTS
from vramplan.tui.threads import in_thread
from vramplan.tui.widgets.knob_list import KnobList
from vramplan.tui.widgets.row_table import RowTable

REFRESH_SECONDS = 2.0
"""Between two readings of what is here."""
Listed = Device | DeviceProfile | str
"""A reading, a data sheet, or a bare size."""


class HardwareScreen(StepScreen):
    """Choose what to plan for; what is here is read anew while the screen is in sight."""

    step = "hardware"
    scopes = ("hardware", "knobs")
    BINDINGS = bindings("hardware")

    def __init__(self) -> None:
        super().__init__()
        self._here: tuple[Device, ...] = ()
        self._profiles: tuple[DeviceProfile, ...] = ()
        self._listed: list[Listed] = []
        self._prices: dict[str, Text] = {}
        self._priced_for: object = None

    def body(self) -> Iterable[Widget]:
        yield Input(placeholder="part of a name, or a size such as 12GiB", id="find", compact=True)
        yield RowTable(
            "device", ">free", ">GiB", "your choice on it", ">GB/s", ">bf16 TFLOPS", "architecture", ">USD/h",
            takes=True, id="devices",
        )  # fmt: skip
        yield Static("", id="device-facts", markup=False)
        yield KnobList("hardware")

    def on_mount(self) -> None:
        self.set_focus(self.query_one(RowTable))  # at once: who came to type a name moves on to the box
        self.set_interval(REFRESH_SECONDS, self._read_again)
        self._read()

    def show_state(self, state: State) -> None:
        super().show_state(state)
        self.query_one(KnobList).show(state.choice.knobs, state.priced)
        if (asked := (state.choice.model, state.choice.knobs)) != self._priced_for:
            self._priced_for, self._prices = asked, {}
            self._show()

    def command(self) -> str | None:
        return "vramplan devices"

    def _read_again(self) -> None:
        if self.is_active and not any(worker.group == "devices" for worker in self.workers):
            self._read()

    @work(exclusive=True, exit_on_error=False, group="devices")
    async def _read(self) -> None:
        core = self.vramplan.core
        if not self._profiles:
            self._profiles = await in_thread(core.profiles)
            self._show()
        here = await in_thread(core.devices)
        if here != self._here:
            self._here = here
            self._show()

    @on(Input.Changed, "#find")
    def _filtered(self) -> None:
        self._show()

    def _show(self) -> None:
        """The rows, in place: what is here, a size that was typed, the products."""
        if not self.is_whole:
            return
        text = self.query_one("#find", Input).value
        words = text.lower().split()
        listed: list[Listed] = [*self._here, *([text.strip()] if _size(text) is not None else []), *self._profiles]
        self._listed = [each for each in listed if isinstance(each, str) or all(w in each.name.lower() for w in words)]
        self.query_one(RowTable).show([_row(each, self._prices.get(_name(each), cell(""))) for each in self._listed])
        if not self._listed:
            self.query_one("#device-facts", Static).update(line(f"nothing is called {text}"))

    @on(RowTable.RowHighlighted, "#devices")
    def _in_full(self, event: RowTable.RowHighlighted) -> None:
        if 0 <= event.cursor_row < len(self._listed):
            self.query_one("#device-facts", Static).update(line(_facts(self._listed[event.cursor_row])))

    @on(Input.Submitted, "#find")
    def _entered(self) -> None:
        self._take(self.query_one(RowTable).cursor_row)

    @on(RowTable.RowSelected, "#devices")
    def _selected(self, event: RowTable.RowSelected) -> None:
        self._take(event.cursor_row)

    @work(exclusive=True, exit_on_error=False, group="take")
    async def _take(self, row: int) -> None:
        why = self.vramplan.why_not("take_device")
        if why is not None:
            self.notice.say(why)
        elif 0 <= row < len(self._listed):
            device, note = await self._device(self._listed[row])
            self.post_message(DeviceChosen(device, note))

    async def _device(self, listed: Listed) -> tuple[Device | None, str]:
        if isinstance(listed, Device):
            return listed, ""
        return await in_thread(self.vramplan.core.named_device, _name(listed))

    @on(events.ScreenSuspend)
    def _left(self) -> None:
        """Who comes back by its number presses keys and types nothing, with every product in sight."""
        self.query_one("#find", Input).value = ""
        self.set_focus(self.query_one(RowTable))

    def action_filter(self) -> None:
        """Go to the search box."""
        self.set_focus(self.query_one("#find"))

    def action_options(self) -> None:
        """From the devices to their number and sharding, and back."""
        table, knobs = self.query_one(RowTable), self.query_one(KnobList)
        self.set_focus(table if self.focused is knobs else knobs)

    def action_mark_price(self) -> None:
        """Price the choice on the product under the cursor as well; what was priced stays beside it."""
        row = self.query_one(RowTable).cursor_row
        if 0 <= row < len(self._listed):
            self._price(self._listed[row])

    @work(exit_on_error=False, group="mark")
    async def _price(self, listed: Listed) -> None:
        choice, asked = self.vramplan.state.choice, self._priced_for
        self._prices[_name(listed)] = cell("pricing ...")
        self._show()
        try:
            device, _ = await self._device(listed)
            candidate = (
                await in_thread(self.vramplan.core.price, choice.model_copy(update={"device": device}))
            ).candidate
        except Exception as error:  # whatever it is, this row has no price and the notice says why
            self._prices[_name(listed)] = cell("no price")
            self.notice.fail(f"{_name(listed)}: {describe_error(error)}")
        else:
            word, colour = VERDICTS[candidate.verdict]
            high = format_gib(candidate.budget.high_process_bytes)
            self._prices[_name(listed)] = cell(f"{word}, up to {high} GiB", style=f"bold {colour}")
        if asked == self._priced_for:
            self._show()

    def on_key(self, event: events.Key) -> None:
        """The arrows walk the list while the filter keeps the focus."""
        if event.key in ("down", "up") and isinstance(self.focused, Input):
            table = self.query_one(RowTable)
            (table.action_cursor_down if event.key == "down" else table.action_cursor_up)()
            event.stop()
            return
        super().on_key(event)


def _name(listed: Listed) -> str:
    if isinstance(listed, str):
        return listed
    return listed.uuid or f"here: {listed.name}" if isinstance(listed, Device) else listed.name


def _row(listed: Listed, price: Text) -> tuple[str | Text, ...]:
    if isinstance(listed, str):
        size = _size(listed)
        return (
            f"any CUDA card with {'' if size is None else format_bytes(size)}",
            "",
            gib(size),
            price,
            "",
            "",
            "",
            "",
        )
    if isinstance(listed, Device):
        architecture = listed.architecture or ""
        return (
            f"here: {listed.name}",
            gib(listed.free_bytes),
            gib(listed.total_bytes),
            price,
            "",
            "",
            architecture,
            "",
        )
    dollars = "" if listed.usd_per_hour is None else f"{listed.usd_per_hour:.2f}"
    rate, speed = gigabytes_a_second(listed.memory_bandwidth_bytes_per_second), bf16_teraflops(listed)
    return (listed.name, "", gib(listed.total_bytes), price, rate, speed, listed.architecture, dollars)


def _facts(listed: Listed) -> str:
    """What a row has no room for: who holds memory, or how the total is known."""
    if isinstance(listed, str):
        return "a size standing in for an Ampere-class card"
    if isinstance(listed, Device):
        if listed.kind == "cpu":
            return "this machine's processor, with the memory a process here may use"
        held = held_by(listed.holders) or "nobody the driver names"
        parts = [f"GPU {listed.index}" if listed.index is not None else "", f"held by {held}"]
        parts.append(f"driver {listed.driver_version}" if listed.driver_version else "")
        return " · ".join(part for part in parts if part)
    price = f" · {listed.usd_per_hour} USD/h on {listed.usd_per_hour_on}" if listed.usd_per_hour_on else ""
    return f"{listed.total_basis}{price}"


def _size(text: str) -> int | None:
    try:
        return parse_bytes(text) if text.strip()[-1:].isalpha() else None
    except ValueError:
        return None
