"""Trace one key, given as JSON on stdin; the program is printed as JSON. Run as a child process.

With ``--proof`` the program comes in an object beside what it was proved at: sizes, layers, and bytes by phase.
"""

import contextlib
import json
import sys
from typing import Any


def main() -> int:
    """Exit code 0 with the program on stdout, or 1 with the reason as the last line of stderr."""
    from vramplan.planner.programs.codec import dump_program
    from vramplan.planner.programs.key import ProgramKey

    key = ProgramKey.model_validate(json.load(sys.stdin))
    with contextlib.redirect_stdout(sys.stderr):  # libraries print; stdout is the program's
        from vramplan.planner.trace.build import FoldError, NoSymbolError, ProofError, build_program

        try:
            program = build_program(key)
            text = dump_program(program)
            if "--proof" in sys.argv[1:]:
                text = json.dumps({"program": text, "proof": _proof(program)})
        except (FoldError, NoSymbolError, ProofError, ValueError, RuntimeError, NotImplementedError) as error:
            print(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)  # noqa: T201
            return 1
    sys.stdout.write(text)
    return 0


def _proof(program: Any) -> dict[str, Any]:
    """What the held-out trace and the program agree on, to the byte: ``build_program`` has compared them."""
    from vramplan.planner.memory.replay import At, Replay
    from vramplan.planner.trace.build import held_out

    sizes, stack = held_out(program.key, program.radius)
    kinds = tuple(program.key.structure.kinds[position] for position in stack)
    peaks = Replay(program, At(sizes, kinds, 512)).run().peaks
    return {"sizes": sizes, "layers": len(stack), "peaks": {name: peak.total_bytes for name, peak in peaks.items()}}


if __name__ == "__main__":
    raise SystemExit(main())
