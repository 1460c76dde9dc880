"""The largest models of the catalogue that a device can tune: ``planner.largest`` on the real catalogue and prices."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from vramplan.planner.candidate import Candidate
from vramplan.planner.cli.subject import complete, price, subject_of
from vramplan.planner.device import Device
from vramplan.planner.largest import Largest, largest
from vramplan.planner.methods import METHOD_NAMES
from vramplan.planner.resolve import given_for_method

WHOLE_CATALOGUE = 10**6


def largest_on(device: Device, given: Mapping[str, Any]) -> Iterator[Largest]:
    """Per method, the largest catalogue model that fits, with progress on the way.

    Models whose memory program is not here yet are passed over: tracing hundreds would take hours.

    Args:
        given: options as ``planner.resolve.resolve`` takes them.
    """
    from vramplan.planner.adapters.models import resolve_model, search_models

    # The same models are asked for once per method; the Hub is not: every one is in the catalogue.
    subject = cache(lambda model: subject_of(resolve_model(model, online=False), device))

    def priced(model: str, method: str) -> Candidate:
        resolved = complete(subject(model), given_for_method(given, method))
        return price(subject(model), resolved, with_tensors=False, may_trace=False, searching=True)

    return largest(search_models("", WHOLE_CATALOGUE), METHOD_NAMES, priced, device.available_bytes)
