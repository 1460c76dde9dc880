"""The device picker: what is here, every product with a data sheet, or a bare size."""

import asyncio

from textual import events, on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static
from textual.worker import Worker, WorkerState

from vramplan.planner.device import Device, DeviceProfile
from vramplan.planner.units import format_bytes, parse_bytes
from vramplan.tui.bindings import bindings
from vramplan.tui.core import Core
from vramplan.tui.text import describe_error, gib, line
from vramplan.tui.widgets.row_table import RowTable

Picked = Device | str | None
"""A reading, the name or size of something that is not here, or nothing."""


class DevicePicker(ModalScreen[Picked]):
    """Dismisses with what was picked; esc is nothing."""

    BINDINGS = bindings("dialog")

    def __init__(self, core: Core) -> None:
        super().__init__()
        self._core = core
        self._here: tuple[Device, ...] = ()
        self._profiles: tuple[DeviceProfile, ...] = ()
        self._listed: list[Device | str] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="box tall"):
            yield Static("Plan for", classes="title", markup=False)
            yield Input(placeholder="part of a name, or a size such as 12GiB", compact=True)
            yield RowTable("device", ">free", ">GiB", "architecture", takes=True, id="devices")
            yield Static("", id="devices-note", markup=False)

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self._read()

    @work(exclusive=True, exit_on_error=False)
    async def _read(self) -> None:
        self._profiles = await asyncio.to_thread(self._core.profiles)
        self._show("")
        self._here = await asyncio.to_thread(self._core.devices)
        self._show(self.query_one(Input).value)

    @on(Input.Changed)
    def _filtered(self, event: Input.Changed) -> None:
        self._show(event.value)

    def _show(self, text: str) -> None:
        words = text.lower().split()
        rows, self._listed = [], []
        size = _size(text)
        if size is not None:
            rows.append((f"any CUDA card with {format_bytes(size)}", "", gib(size), ""))
            self._listed.append(text.strip())
        for device in self._here:
            if all(word in device.name.lower() for word in words):
                rows.append(_here(device))
                self._listed.append(device)
        for profile in self._profiles:
            if all(word in f"{profile.vendor} {profile.name}".lower() for word in words):
                rows.append((profile.name, "", gib(profile.total_bytes), profile.architecture))
                self._listed.append(profile.name)
        self.query_one(RowTable).show(rows)
        self.query_one("#devices-note", Static).update("" if rows else line(f"nothing is called {text}"))

    @on(Input.Submitted)
    def _entered(self) -> None:
        self._pick(self.query_one(RowTable).cursor_row)

    @on(RowTable.RowSelected)
    def _selected(self, event: RowTable.RowSelected) -> None:
        self._pick(event.cursor_row)

    def _pick(self, row: int) -> None:
        if 0 <= row < len(self._listed):
            self.dismiss(self._listed[row])

    def on_key(self, event: events.Key) -> None:
        """The arrows walk the list while the filter keeps the focus."""
        if event.key in ("down", "up") and isinstance(self.focused, Input):
            table = self.query_one(RowTable)
            (table.action_cursor_down if event.key == "down" else table.action_cursor_up)()
            event.stop()

    @on(Worker.StateChanged)
    def _say_what_failed(self, event: Worker.StateChanged) -> None:
        if event.state is WorkerState.ERROR and event.worker.error is not None:
            self.query_one("#devices-note", Static).update(line(f"✗ {describe_error(event.worker.error)}"))


def _here(device: Device) -> tuple[str, str, str, str]:
    return (f"here: {device.name}", gib(device.free_bytes), gib(device.total_bytes), device.architecture or "")


def _size(text: str) -> int | None:
    try:
        return parse_bytes(text) if text.strip()[-1:].isalpha() else None
    except ValueError:
        return None
