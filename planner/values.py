"""The base of every value the planner passes around: frozen, closed, cheap to import."""

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """An immutable value. Unknown keys are refused; validators are built on first use (start-up time)."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
