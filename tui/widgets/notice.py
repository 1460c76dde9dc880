"""The line above the keys: what just happened, or what went wrong and what to do about it."""

from textual.widgets import Static

from vramplan.tui.text import line


class Notice(Static):
    """Empty until something is said; an error has the word in front, so that colour is not needed."""

    def __init__(self) -> None:
        super().__init__("", id="notice", markup=False)
        self._narrating = False

    def say(self, text: str) -> None:
        """A plain note."""
        self._narrating = False
        self.set_class(False, "-error")
        self.update(line(text))

    def narrate(self, text: str) -> None:
        """What is being done just now; an empty text when it is done, which leaves other notes alone."""
        if text or self._narrating:
            self.say(text)
            self._narrating = bool(text)

    def fail(self, text: str) -> None:
        """An error: one line, remedy included."""
        self._narrating = False
        self.set_class(True, "-error")
        self.update(line(f"✗ {text}"))
