"""Picker: takes options one by one and remembers what each became and where it came from."""

from collections.abc import Mapping
from typing import Any

from vramplan.planner.candidate import ResolvedOption

_SWITCHES = (
    "gradient_checkpointing",
    "kbit_preparation",
    "double_quant",
    "packing",
    "use_rslora",
    "use_dora",
    "completion_only",
    "skip_bad_rows",
)
_FLAGS = {"sequences_per_step": "--tokens-per-step", "gradient_accumulation_steps": "--tokens-per-step"}


class Picker:
    """What a person gave, and a record of every option as it was settled."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = {name: value for name, value in given.items() if value is not None}
        self.options: list[ResolvedOption] = []

    def given(self, name: str) -> Any:
        """The value a person gave, or None."""
        return self._given.get(name)

    def take(self, name: str, fallback: Any, *, because: str | None = None, derived: str | None = None) -> Any:
        """The given value, else ``fallback``: a default, or derived where ``derived`` says from what."""
        if name in self._given:
            return self._record(name, self._given[name], "given", None)
        return self._record(name, fallback, "default" if derived is None else "derived", derived or because)

    def settle(self, name: str, value: Any, because: str) -> Any:
        """A value that follows from the others; nobody was asked."""
        return self._record(name, value, "derived", because)

    def _record(self, name: str, value: Any, origin: Any, because: str | None) -> Any:
        flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
        if name in _SWITCHES and value is True:
            flag = f"--no-{name.replace('_', '-')}"
        shown = list(value) if isinstance(value, tuple) else value
        self.options.append(ResolvedOption(name=name, value=shown, origin=origin, flag=flag, because=because))
        return value
