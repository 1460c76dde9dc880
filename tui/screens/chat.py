"""Screen 9: one base, the adapters of runs on it, switched between prompts."""

import shlex
from collections.abc import Iterable

from textual import on, work
from textual.widget import Widget
from textual.widgets import Input, Static

from vramplan.tui.bindings import bindings
from vramplan.tui.core import Chat
from vramplan.tui.screens.step import StepScreen
from vramplan.tui.state import State
from vramplan.tui.text import describe_error, line
from vramplan.tui.threads import in_thread
from vramplan.tui.widgets.talk import YOU, Talk

NOBODY = "nobody to talk to yet: on Runs, c chats with a finished run; space marks several first"


class ChatScreen(StepScreen):
    """Prompts below, the conversation above; the model lives in a child process until the chat is ended."""

    step = "chat"
    scopes = ("chat",)
    BINDINGS = bindings("chat")

    def __init__(self) -> None:
        super().__init__()
        self._folders: tuple[str, ...] = ()
        self._chat: Chat | None = None
        self._turns: list[tuple[str, str]] = []

    def body(self) -> Iterable[Widget]:
        yield Static(id="voices", markup=False)
        yield Talk(id="talk")
        yield Input(placeholder="a prompt; enter sends it, esc leaves the box", id="prompt", compact=True)

    def show_state(self, state: State) -> None:
        super().show_state(state)
        if state.chat != self._folders:
            self._folders = state.chat
            self._open(state.chat)
        self._show_voices()

    def command(self) -> str | None:
        return shlex.join(["vramplan", "chat", *self._folders]) if self._folders else None

    @work(exclusive=True, exit_on_error=False, group="open")
    async def _open(self, folders: tuple[str, ...]) -> None:
        await self._close()
        if folders:
            self.action_clear()
            self.set_focus(self.query_one("#prompt"))  # what is typed while it loads is a prompt, and no key
            self.notice.say(f"loading {', '.join(folders)} ...")
            try:
                self._chat = await in_thread(self.vramplan.core.open_chat, folders)
            except Exception:
                self._folders = ()
                self.vramplan.change(self.vramplan.state.model_copy(update={"chat": ()}))
                raise
            self.notice.say("ready")
        self._show_voices()

    async def _close(self) -> None:
        chat, self._chat = self._chat, None
        if chat is not None:
            await in_thread(chat.close)

    async def on_unmount(self) -> None:
        """The model's process ends with the app."""
        await self._close()

    def _show_voices(self) -> None:
        chat = self._chat
        nobody = f"loading {', '.join(self._folders)}" if self._folders else NOBODY
        said = nobody if chat is None else "  ".join(f"‹{v}›" if v == chat.voice else f" {v} " for v in chat.voices)
        self.query_one("#voices", Static).update(line(said))

    @on(Input.Submitted, "#prompt")
    def _entered(self, event: Input.Submitted) -> None:
        if self._chat is None:
            self.notice.say("it is being loaded" if self._folders else NOBODY)
        elif any(worker.group == "answer" for worker in self.workers):
            self.notice.say("an answer is under way: x cuts it short")
        elif event.value.strip():
            event.input.value = ""
            self._answer(self._chat, event.value)

    @work(exclusive=True, exit_on_error=False, group="answer")
    async def _answer(self, chat: Chat, prompt: str) -> None:
        voice, text = chat.voice, ""
        self._turns += [(YOU, prompt), (voice, "...")]
        self.query_one(Talk).show(self._turns)
        pieces = chat.answer(prompt)
        try:
            while (piece := await in_thread(next, pieces, None)) is not None:
                text += piece
                self._turns[-1] = (voice, text)
                self.query_one(Talk).show(self._turns)
        except Exception as error:  # the process is gone: nobody is there to answer the next prompt
            self._turns[-1] = (voice, f"{text} ✗ {describe_error(error)}")
            self.query_one(Talk).show(self._turns)
            self.vramplan.change(self.vramplan.state.model_copy(update={"chat": ()}))
            raise

    def action_say(self) -> None:
        """Go to the prompt."""
        self.set_focus(self.query_one("#prompt"))

    async def action_leave(self) -> None:
        """Out of the prompt, where one is being written; else to the screen before."""
        if isinstance(self.focused, Input):
            self.set_focus(None)
        else:
            await self.vramplan.action_back()

    def action_next_adapter(self) -> None:
        """The next who can answer; the conversation begins anew."""
        chat = self._chat
        if chat is None:
            self.notice.say(NOBODY)
            return
        at = chat.voices.index(chat.voice)
        chat.use((*chat.voices, *chat.voices)[at + 1])
        self._turns = []
        self.query_one(Talk).show([])
        self._show_voices()
        self.notice.say(f"{chat.voice} answers; the conversation begins anew")

    def action_clear(self) -> None:
        """Forget the conversation."""
        if self._chat is not None:
            self._chat.clear()
        self._turns = []
        self.query_one(Talk).show([])

    def action_stop(self) -> None:
        """Cut the answer short."""
        if self._chat is not None:
            self._chat.stop()

    def action_end(self) -> None:
        """End the chat and free what it holds."""
        self.action_clear()
        self.vramplan.change(self.vramplan.state.model_copy(update={"chat": ()}))
