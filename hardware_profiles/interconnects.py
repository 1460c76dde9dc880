"""Reads interconnects.json: what joins GPUs, each figure with its source."""

import json
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class Interconnect(NamedTuple):
    """One kind of link: of one GPU, in one direction."""

    name: str
    gb_per_second: float
    between_nodes: bool
    source: str


@cache
def interconnects() -> dict[str, Interconnect]:
    """Every link by its name."""
    text = (files("vramplan.hardware_profiles") / "interconnects.json").read_text(encoding="utf-8")
    rows = (Interconnect(**({"between_nodes": False} | row)) for row in json.loads(text)["links"])
    return {row.name: row for row in rows}
