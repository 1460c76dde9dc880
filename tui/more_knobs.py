"""Every other option of the command line as an option of the app, made from the table the commands are made from."""

from functools import cache

from vramplan.planner.cli.options import RECIPE, SETUP, Option
from vramplan.planner.cli.parsing import OneOf
from vramplan.tui.choice import Priced
from vramplan.tui.knobs import KNOBS, Knob, Place, knobs_at


@cache
def more_knobs() -> tuple[Knob, ...]:
    """Options without a line of their own in ``KNOBS``: switches, names to walk through, and what is typed."""
    named = {knob.name for knob in KNOBS}
    return tuple(_knob(option) for option in (*SETUP, *RECIPE) if option.name not in named)


def all_knobs(place: Place) -> tuple[Knob, ...]:
    """The options of a screen, and after them all others."""
    first = knobs_at(place)
    return (*first, *(knob for knob in (*KNOBS, *more_knobs()) if knob not in first))


def _knob(option: Option) -> Knob:
    def resolved(priced: Priced) -> object:
        return priced.options.get(option.name)

    words, flag = option.name.replace("_", " "), f"--{option.name.replace('_', '-')}"
    if option.read is None:
        return Knob(option.name, words, flag, (False, True), resolved)
    values = option.read.names if isinstance(option.read, OneOf) else ()
    return Knob(option.name, words, flag, values, resolved, None if values else str, read=option.read)
