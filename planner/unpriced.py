"""What is understood but has no budget yet, refused by name. A row leaves this table when its budget arrives."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from vramplan.planner.errors import UnsupportedError


class Unpriced(NamedTuple):
    """One value of one option (``value`` None: any value but ``except_for``), and what to use meanwhile."""

    option: str
    value: str | None
    remedy: str
    except_for: Any = None


UNPRICED: tuple[Unpriced, ...] = (Unpriced("encoder_type", "LSTM", "use --encoder-type MLP, which PEFT recommends"),)


def refuse_unpriced(given: Mapping[str, Any]) -> None:
    """Stop at the first option whose memory nobody has counted yet.

    Raises:
        UnsupportedError: naming the option and its value.
    """
    for row in UNPRICED:
        value = given.get(row.option)
        if value is None or (row.value is not None and value != row.value) or value == row.except_for:
            continue
        raise UnsupportedError(f"--{row.option.replace('_', '-')} {value} is not priced yet", remedy=row.remedy)
