"""Build the memory programs that ship: every cell of grid.toml, proved, into programs.zip.

    python -m vramplan.planner.trace.build_set [--output FILE] [--check N]

Resumable: a program already in the file for a key of the grid and the same library versions is kept, any other goes.
``--check N`` re-traces N programs, a different N each day, and fails on any difference.
"""

import argparse
import contextlib
import datetime
import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

from vramplan.planner.errors import NoProgramError
from vramplan.planner.memory.replay import At, Replay
from vramplan.planner.programs.codec import dump_program, load_program
from vramplan.planner.programs.key import ProgramKey
from vramplan.planner.programs.program import Program
from vramplan.planner.trace.grid import FOLDER, grid_keys


def build(output: Path) -> int:
    """Build what is missing; the number of keys that could not be built."""
    from vramplan.planner.trace.build import (
        FoldError,
        NoSymbolError,
        ProofError,
        build_program,
        traced_versions,
    )

    failed = 0
    keys = {key.digest(): (words, key) for words, key in grid_keys()}
    have = keep(output, {f"{digest}.json" for digest in keys}, traced_versions()) if output.exists() else set()
    for index, (digest, (words, key)) in enumerate(keys.items(), start=1):
        name = f"{digest}.json"
        if name in have:
            continue
        try:
            text = dump_program(build_program(key))
        except (FoldError, NoSymbolError, ProofError) as error:
            failed += 1
            print(f"[{index}/{len(keys)}] {words}: {type(error).__name__}: {error}", flush=True)  # noqa: T201
            continue
        with zipfile.ZipFile(output, "a", zipfile.ZIP_LZMA) as archive:
            archive.writestr(name, text)
        print(f"[{index}/{len(keys)}] {words}", flush=True)  # noqa: T201
    return failed


def keep(output: Path, wanted: set[str], versions: dict[str, str]) -> set[str]:
    """Leave in the file the wanted programs of these library versions; their names."""
    with zipfile.ZipFile(output) as archive:
        texts = {name: archive.read(name) for name in archive.namelist() if name in wanted}
        kept = {name: text for name, text in texts.items() if json.loads(text).get("versions") == versions}
        if len(kept) == len(archive.namelist()):
            return set(kept)
    temporary = output.with_suffix(".kept")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_LZMA) as archive:
        for name, text in kept.items():
            archive.writestr(name, text)
    temporary.replace(output)
    return set(kept)


def check(output: Path, count: int) -> int:
    """Re-trace ``count`` shipped programs, rotating daily; the number that differ. A line of JSON for each."""
    from vramplan.planner.trace.build import build_program

    differ = 0
    with zipfile.ZipFile(output) as archive:
        for words, key in todays(count):
            name = f"{key.digest()}.json"
            shipped = load_program(archive.read(name).decode()) if name in archive.namelist() else None
            with contextlib.redirect_stdout(sys.stderr):  # libraries print
                traced = load_program(dump_program(build_program(key)))
            same = shipped is not None and replace(shipped, versions=traced.versions) == traced
            differ += not same
            found = {"program": words, "same": same, "bytes": 0 if same else largest_difference(shipped, traced)}
            print(json.dumps(found), flush=True)  # noqa: T201
    return differ


def todays(count: int) -> list[tuple[str, ProgramKey]]:
    """``count`` of the grid's programs, other ones each day."""
    keys = [each for _, each in sorted({key.digest(): (words, key) for words, key in grid_keys()}.items())]
    start = datetime.date.today().toordinal() * count
    return [keys[(start + offset) % len(keys)] for offset in range(min(count, len(keys)))]


def largest_difference(shipped: Program | None, traced: Program) -> int | None:
    """Bytes between the two at the sizes a program is proved at, in the phase where they differ most; None: not
    comparable."""
    from vramplan.planner.trace.build import held_out

    if shipped is None:
        return None
    sizes, stack = held_out(traced.key, traced.radius)
    at = At(sizes, tuple(traced.key.structure.kinds[position] for position in stack), 512)
    try:
        one, other = (Replay(program, at).run() for program in (shipped, traced))
    except (LookupError, NoProgramError):
        return None
    between = [one.peaks[phase].total_bytes - other.peaks[phase].total_bytes for phase in one.peaks]
    return max([*between, one.end_bytes - other.end_bytes], key=abs)


def main(arguments: list[str]) -> int:
    """Exit code 1 when a program failed or differs."""
    parser = argparse.ArgumentParser(description="Build, or check, the memory programs that ship.")
    parser.add_argument("--output", type=Path, default=Path(str(FOLDER)) / "programs.zip")
    parser.add_argument("--check", type=int, metavar="N")
    options = parser.parse_args(arguments)
    wrong = build(options.output) if options.check is None else check(options.output, options.check)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
