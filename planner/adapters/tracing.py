"""Tracing asked for: a key traced now with its proof, and a sample of what ships traced again. Always in a child."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vramplan.planner.adapters.programs import CHILD, CHILD_ENVIRONMENT, keep_program, need_torch, trace_child
from vramplan.planner.errors import NoProgramError
from vramplan.planner.programs.codec import load_program
from vramplan.planner.programs.key import ProgramKey
from vramplan.planner.programs.program import Program


class Traced(NamedTuple):
    """A program traced now, and what it was proved at."""

    program: Program
    sizes: dict[str, int]
    """Of the trace it was not made from."""
    layers: int
    peaks: dict[str, int]
    """Bytes by phase there, on which both agree."""


class Checked(NamedTuple):
    """One program that ships, traced again."""

    words: str
    same: bool
    difference_bytes: int | None
    """In the phase where they differ most; None where they cannot be compared."""


def trace_now(key: ProgramKey) -> Traced:
    """Trace a key whatever is known of it, and keep the program.

    Raises:
        NoProgramError: it cannot be traced here.
    """
    name = f"{key.structure.model_type} with {key.mode.method}"
    need_torch(f"tracing {name} needs torch")
    answer = json.loads(trace_child(name, ["--proof"], json.dumps(key.model_dump(mode="json"))))
    keep_program(key, answer["program"])
    proof = answer["proof"]
    return Traced(load_program(answer["program"]), proof["sizes"], proof["layers"], proof["peaks"])


def check_shipped(count: int, archive: Path | None = None) -> Iterator[Checked]:
    """Trace ``count`` of the programs that ship again, other ones each day, as each is done.

    Args:
        archive: another file of programs.

    Raises:
        NoProgramError: torch is not here, or the child failed.
    """
    need_torch("tracing what ships again needs torch")
    arguments = ["--check", str(count)] + ([] if archive is None else ["--output", str(archive)])
    with subprocess.Popen(
        [*CHILD, "vramplan.planner.trace.build_set", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | CHILD_ENVIRONMENT,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        seen = 0
        for line in child.stdout:
            found: dict[str, Any] = json.loads(line)
            seen += 1
            yield Checked(found["program"], found["same"], found["bytes"])
        complaint = child.stderr.read().strip().splitlines()
    if seen == 0 or child.returncode not in (0, 1):
        raise NoProgramError(
            f"the programs that ship could not be traced again: {(complaint or ['no reason given'])[-1]}",
            remedy="check the installation: pip install 'vramplan[train]'",
        )
