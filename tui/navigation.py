"""Which screens there are, how the keys move between them, and what the palette and the help offer."""

from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from typing import Any, ClassVar, cast

from textual.actions import parse
from textual.app import App, SystemCommand
from textual.screen import Screen

from vramplan.tui.bindings import ACTIONS, STEPS, bindings
from vramplan.tui.screens.step import StepScreen
from vramplan.tui.state import MODEL_FIRST, State, why_not


def made(step: str, title: str) -> Screen[Any]:
    """A numbered screen. Its module is imported when it is first opened: nobody waits for nine screens to see one."""
    return cast("Screen[Any]", getattr(import_module(f"vramplan.tui.screens.{step}"), f"{title}Screen")())


class NavigatedApp(App[int]):
    """Nine numbered screens; each is made once and kept."""

    BINDINGS = bindings("app")
    VERTICAL_BREAKPOINTS: ClassVar[list[tuple[int, str]] | None] = [(0, "-short"), (36, "-tall")]  # type: ignore[misc]
    HORIZONTAL_BREAKPOINTS: ClassVar[list[tuple[int, str]] | None] = [(0, "-narrow"), (140, "-wide")]  # type: ignore[misc]
    SCREENS: ClassVar[dict[str, Callable[[], Screen[Any]]]] = {
        step: partial(made, step, title) for step, title in STEPS
    }
    state: State

    def why_not(self, action: str) -> str | None:
        """Why a binding's action is not possible now; None when it is."""
        _, name, parameters = parse(action)
        return why_not(self.state, name, parameters)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Grey out what is not possible now."""
        return None if why_not(self.state, action, parameters) else True

    async def action_go(self, name: str) -> None:
        """Open a screen: back to it when it is open already, else on top of this one."""
        open_names = [screen.step for screen in self.screen_stack if isinstance(screen, StepScreen)]
        if name not in open_names:
            await self.push_screen(name)
            return
        while isinstance(self.screen, StepScreen) and self.screen.step != name:
            await self.pop_screen()

    async def action_device(self) -> None:
        """Choose the device to plan for: what is typed next is part of its name, or a size."""
        await self.action_go("hardware")
        await self.screen.run_action("filter")

    async def action_back(self) -> None:
        """To the screen before; on the first one, out of the search box."""
        if len(self.screen_stack) > 2:
            await self.pop_screen()
        else:
            self.screen.set_focus(None)
            self.screen.focus_next()

    def command(self) -> str | None:
        """The command line that does what the app is set to do; None while there is no model."""
        from vramplan.tui.command_line import plan_command

        choice = self.state.choice
        if choice.model is None:
            return None
        saved, priced = self.state.saved, self.state.priced
        return plan_command(choice, saved.path if saved else priced.path if priced else None)

    def action_copy_command(self) -> None:
        """Put the equivalent command line on the clipboard, and show it."""
        own = self.screen.command() if isinstance(self.screen, StepScreen) else None
        command = own or self.command()
        if command is not None:
            self.copy_to_clipboard(command)
        if isinstance(self.screen, StepScreen):
            self.screen.notice.say(MODEL_FIRST if command is None else f"copied: {command}")

    def action_help(self) -> None:
        """Show the keys, those of this screen first."""
        from vramplan.tui.screens.help import Help

        self.push_screen(Help(self.screen.scopes if isinstance(self.screen, StepScreen) else ()))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """The palette: every action of this screen and of the app that is possible now."""
        scopes = (*screen.scopes, "app") if isinstance(screen, StepScreen) else ("app",)
        for action in ACTIONS:
            if action.scope in scopes and self.why_not(action.action) is None:
                run = partial(self.run_action, action.action, screen if action.scope != "app" else self)
                yield SystemCommand(action.label, action.help, run)
