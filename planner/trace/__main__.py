"""Trace one key, given as JSON on stdin; the program is printed as JSON. Run as a child process."""

import contextlib
import json
import sys


def main() -> int:
    """Exit code 0 with the program on stdout, or 1 with the reason as the last line of stderr."""
    from vramplan.planner.programs.codec import dump_program
    from vramplan.planner.programs.key import ProgramKey

    key = ProgramKey.model_validate(json.load(sys.stdin))
    with contextlib.redirect_stdout(sys.stderr):  # libraries print; stdout is the program's
        from vramplan.planner.trace.build import FoldError, NoSymbolError, ProofError, build_program

        try:
            text = dump_program(build_program(key))
        except (FoldError, NoSymbolError, ProofError, ValueError, RuntimeError, NotImplementedError) as error:
            print(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)  # noqa: T201
            return 1
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
