"""Picker: takes options one by one and remembers what each became and where it came from."""

from collections.abc import Mapping
from typing import Any, NamedTuple

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


class Settled(NamedTuple):
    """How one option came out. A search resolves hundreds of setups and shows the options of a few."""

    name: str
    value: Any
    origin: Any
    because: str | None

    def shown(self) -> ResolvedOption:
        """With the flag that changes it."""
        flag = _FLAGS.get(self.name, f"--{self.name.replace('_', '-')}")
        if self.name in _SWITCHES and self.value is True:
            flag = f"--no-{self.name.replace('_', '-')}"
        value = list(self.value) if isinstance(self.value, tuple) else self.value
        return ResolvedOption(name=self.name, value=value, origin=self.origin, flag=flag, because=self.because)


class Picker:
    """What a person gave, and a record of every option as it was settled."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = {name: value for name, value in given.items() if value is not None}
        self.settled: list[Settled] = []

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
        self.settled.append(Settled(name, value, origin, because))
        return value
