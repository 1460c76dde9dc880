"""``vramplan trace``: the memory program of a setup, traced if it is not here; or what ships traced again."""

import time
from typing import Any

from vramplan.planner.adapters.programs import Found, known_program, newer_libraries
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.options import add_options, given_options
from vramplan.planner.cli.parsing import whole_number
from vramplan.planner.cli.render import items, paragraph, show, show_json, tell, terminal_width
from vramplan.planner.errors import ExitCode, NoProgramError, UsageError
from vramplan.planner.programs.key import ProgramKey
from vramplan.planner.programs.program import Program
from vramplan.planner.units import format_bytes

CHECKED_BY_DEFAULT = 4


def add_parser(subparsers: Any) -> None:
    """Register ``trace``."""
    parser = subparsers.add_parser(
        "trace", description="Make the memory program of a setup, or trace a sample of those that ship again."
    )
    add_options(parser, model_required=False)
    parser.add_argument("--again", action="store_true", help="trace now, and compare with the program that is here")
    parser.add_argument(
        "--check",
        type=whole_number,
        nargs="?",
        const=CHECKED_BY_DEFAULT,
        metavar="N",
        help=f"trace N of the programs that ship again ({CHECKED_BY_DEFAULT}), other ones each day",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: Any) -> ExitCode:
    """Print what was traced; exit code 1 where a program differs from its trace."""
    if args.check is not None:
        return _check(args)
    if args.model is None:
        raise UsageError("trace needs a model", remedy="vramplan trace MODEL, or vramplan trace --check")
    subject = subjects.look_up(args)
    resolved = subjects.complete(subject, given_options(args))
    key = subjects.key_of(subject, resolved)
    known = _known(key)
    if known is not None and not args.again:
        return _show_known(key, known, as_json=args.json)
    return _trace(key, known, as_json=args.json)


def _known(key: ProgramKey) -> Found | None:
    try:
        return known_program(key)
    except NoProgramError:
        return None


def _show_known(key: ProgramKey, known: Found, *, as_json: bool) -> ExitCode:
    if as_json:
        show_json(_facts(key, known.program) | {"origin": known.origin})
        return ExitCode.OK
    width = terminal_width()
    show(
        *_key_lines(key, known.program, width=width),
        paragraph(f"{known.origin}; proved against a trace when it was made, traced now with --again", width=width),
    )
    return ExitCode.OK


def _trace(key: ProgramKey, known: Found | None, *, as_json: bool) -> ExitCode:
    from vramplan.planner.adapters.tracing import trace_now

    tell(f"tracing {_words(key)}: two sizes recorded and folded, a third held out ...")
    start = time.monotonic()
    traced = trace_now(key)
    tell(f"done in {time.monotonic() - start:.0f} s")
    newer = {} if known is None else newer_libraries(known.program)
    same = known is None or bool(newer) or _content(known.program) == _content(traced.program)
    if as_json:
        proof = {"sizes": traced.sizes, "layers": traced.layers, "peaks": traced.peaks, "difference_bytes": 0}
        show_json(_facts(key, traced.program) | {"origin": "traced", "proof": proof, "as_known": same})
        return ExitCode.OK if same else ExitCode.FAILED
    width = terminal_width()
    sizes = items([f"{name} = {value}" for name, value in traced.sizes.items()], width=width, first="at       ")
    peaks = items(
        [f"{name} {format_bytes(size)}" for name, size in traced.peaks.items()], width=width, first="peaks    "
    )
    show(
        *_key_lines(key, traced.program, width=width),
        paragraph(
            f"equal to a trace it was not made from, of {traced.layers} layers: 0 bytes off in every phase and at the"
            " end of the step, in blocks of 1 and of 512 bytes",
            width=width,
            first="proved   ",
        ),
        sizes,
        peaks,
    )
    if not same:
        show(paragraph(f"DIFFERENT from the {known.origin if known else ''} program of this key", width=width))
    elif known is not None and not newer:
        show(paragraph(f"the same as the {known.origin} program of this key", width=width))
    return ExitCode.OK if same else ExitCode.FAILED


def _check(args: Any) -> ExitCode:
    from vramplan.planner.adapters.tracing import check_shipped

    if args.model is not None or args.check < 1:
        raise UsageError("--check takes a number of programs, and no model", remedy="vramplan trace --check 4")
    tell(f"tracing {args.check} of the programs that ship again ...")
    found = []
    for checked in check_shipped(args.check):
        found.append(checked)
        if not args.json:
            off = "" if checked.difference_bytes is None else f", {checked.difference_bytes:+} bytes at the most"
            show(f"{'0 bytes' if checked.same else f'DIFFERENT{off}'}  {checked.words}")
    differ = sum(not checked.same for checked in found)
    if args.json:
        show_json({"checked": [checked._asdict() for checked in found], "differ": differ})
    else:
        show(f"{len(found) - differ} of {len(found)} as they ship")
    return ExitCode.FAILED if differ else ExitCode.OK


def _words(key: ProgramKey) -> str:
    return f"{key.structure.model_type} with {key.mode.method}"


def _content(program: Program) -> tuple[Any, ...]:
    return program.sizes, program.templates, program.blocks, program.buffers, program.labels


def _facts(key: ProgramKey, program: Program) -> dict[str, Any]:
    return {
        "key": key.digest(),
        "structure": key.structure.model_dump(mode="json", exclude={"config"}),
        "mode": key.mode.model_dump(mode="json"),
        "versions": program.versions,
        "entries": sum(len(template) for template in program.templates),
    }


def _key_lines(key: ProgramKey, program: Program, *, width: int) -> list[str]:
    mode = key.mode.model_dump(mode="json", exclude_defaults=True)
    return [
        paragraph(f"{key.digest()}  {_words(key)}", width=width, first="program  "),
        items([f"{name} {value}" for name, value in mode.items()], width=width, first="mode     "),
        items([f"{name} {version}" for name, version in program.versions.items()], width=width, first="with     "),
    ]
