"""The base of every value the planner passes around: frozen, closed, cheap to import."""

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """An immutable value. Unknown keys are refused; validators are built on first use (start-up time)."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            # pydantic's looks for private attributes and extra fields first, which no value has; methods are asked
            # for fields of other methods thousands of times in one search
            raise AttributeError(f"{type(self).__name__} has no {name}")
