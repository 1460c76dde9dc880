"""What a line typed into a chat means: a prompt for whoever answers now, or a command. No torch, no terminal."""

from difflib import get_close_matches
from typing import Literal, NamedTuple

from vramplan.executor.chat_wire import Ask, Turn
from vramplan.planner.cli.render import plain

HELP = """\
/use NAME   answer with that run's adapter
/base       answer with the base alone
/clear      forget the conversation
/names      who can answer
/quit       leave; so does Ctrl-D
//...       a prompt that begins with /"""
COMMANDS = ("/use", "/base", "/clear", "/names", "/help", "/quit")


class Note(NamedTuple):
    """Something to tell the person."""

    text: str


Wanted = Ask | Note | Literal["quit"]


class Session:
    """Who answers now, and the conversation so far; switching begins a new one.

    Args:
        names: of the runs, in the order they were loaded.
        template: prompts are turns of a conversation, written with the chat template; otherwise each stands alone.
        has_base: there is a base to answer without an adapter.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        *,
        template: bool,
        has_base: bool,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.names = names
        self.run: int | None = 0
        self.turns: list[Turn] = []
        self._template = template
        self._has_base = has_base
        self._options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}

    @property
    def voices(self) -> tuple[str, ...]:
        """Who can answer: each run, then the base where there is one."""
        return (*self.names, "base") if self._has_base else self.names

    @property
    def name(self) -> str:
        """Who answers now."""
        return "base" if self.run is None else self.names[self.run]

    def typed(self, line: str) -> Wanted:
        """A line as a question to ask, something to say, or the end."""
        line = line.rstrip("\n")
        if not line.startswith("/") or line.startswith("//"):
            question = Turn(role="user", content=line.removeprefix("/") if line.startswith("//") else line)
            self.turns = [*self.turns, question] if self._template else [question]
            return Ask.model_validate(
                {"run": self.run, "turns": tuple(self.turns), "template": self._template, **self._options}
            )
        command, _, rest = line.partition(" ")
        match command:
            case "/quit" | "/exit":
                return "quit"
            case "/use":
                return self._use(rest.strip())
            case "/base":
                return self._use_base()
            case "/clear":
                self.turns = []
                return Note("the conversation begins anew")
            case "/names":
                return Note("\n".join(self.voices))
            case "/help":
                return Note(HELP)
            case _:
                nearest = get_close_matches(command, COMMANDS, n=1)
                hint = f"; did you mean {nearest[0]}?" if nearest else "; see /help"
                return Note(f"no command {plain(command[:40])}{hint}")

    def answered(self, text: str) -> None:
        """Keep an answer as part of the conversation."""
        if self._template:
            self.turns.append(Turn(role="assistant", content=text))

    def _use(self, name: str) -> Note:
        if name == "base":
            return self._use_base()
        if name not in self.names:
            nearest = get_close_matches(name, self.names, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else "see /names"
            return Note(f"no run {plain(name[:80])} here; {hint}")
        self.run, self.turns = self.names.index(name), []
        return Note(f"{name} answers")

    def _use_base(self) -> Note:
        if not self._has_base:
            return Note("this run trained the model's own weights: there is no base without them here")
        self.run, self.turns = None, []
        return Note("the base answers")


def inert(text: str) -> str:
    """Text of a model as a terminal may show it: line breaks and tabs kept, everything else that steers written out.

    >>> inert("two\\nlines \\x1b[2J")
    'two\\nlines \\\\x1b[2J'
    """
    return "".join(character if character in "\n\t" else plain(character) for character in text)
