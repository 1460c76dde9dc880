"""``vramplan estimate --solve``: the largest value of one option that fits a device, per method or for one."""

from collections.abc import Hashable
from typing import Any, NamedTuple

from vramplan.planner.candidate import Candidate
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.estimate_json import estimate_object
from vramplan.planner.cli.ledger import method_words, subject_lines
from vramplan.planner.cli.render import paragraph, show, show_json, table, tell, terminal_width
from vramplan.planner.cli.subject import Subject
from vramplan.planner.errors import ExitCode, NoProgramError, UsageError, VramplanError
from vramplan.planner.methods import METHOD_NAMES
from vramplan.planner.resolve import given_for_method
from vramplan.planner.solve import Solution, solve
from vramplan.planner.units import format_bytes

LARGEST_MICRO_BATCH = 2**16
LARGEST_UNKNOWN_LENGTH = 2**20
"""Where the model does not say how long a sequence may be."""
HEAD = ["", "", "process", "up to", "headroom", "verdict", "peak in"]


class Solved(NamedTuple):
    """One method's answer."""

    method: str
    solution: Solution


def run_solve(flag: str, given: dict[str, Any], subject: Subject, *, as_json: bool) -> ExitCode:
    """Print the largest value that fits; exit code 0 where there is one.

    Raises:
        UsageError: the option is given, or there is no device to fit on.
        VramplanError: the method, or every method, cannot be priced.
    """
    name = flag.replace("-", "_")
    _check(flag, given.get(name), subject)
    named = given.get("method") is not None or given.get("quant") is not None
    solved: list[Solved] = []
    unpriced: list[tuple[str, VramplanError]] = []
    if named:
        solved.append(_solve(name, given, subject))
    for method in () if named else METHOD_NAMES:
        try:
            solved.append(_solve(name, given_for_method(given, method), subject))
        except (UsageError, NoProgramError) as error:
            unpriced.append((method, error))
    if not solved:
        raise unpriced[0][1]
    if as_json:
        show_json(_object(flag, solved, unpriced))
    else:
        _show(flag, solved, unpriced, subject)
    return ExitCode.OK if any(each.solution.value is not None for each in solved) else ExitCode.FAILED


def _check(flag: str, given: Any, subject: Subject) -> None:
    if given is not None:
        raise UsageError(f"--solve {flag} looks for --{flag}, which is given", remedy=f"leave --{flag} out")
    if subject.device is None or subject.device.route is None or subject.device.kind == "rocm":
        raise UsageError(
            f"--solve {flag} needs a device with a verdict to fit on", remedy="add --device NAME or --memory 24GiB"
        )


def _solve(name: str, given: dict[str, Any], subject: Subject) -> Solved:
    least = 2 if name == "sequence_length" else 1
    any_setup = subjects.complete(subject, {**given, name: least}).setup
    tell(f"searching the largest {name.replace('_', ' ')} for {any_setup.method.kind} ...")

    def price(value: int) -> Candidate:
        resolved = subjects.complete(subject, {**given, name: value})
        return subjects.price(subject, resolved, with_tensors=False, searching=True)

    def regime(value: int) -> Hashable:
        resolved = subjects.complete(subject, {**given, name: value})
        return subjects.key_of(subject, resolved).digest(), resolved.setup.gradient_accumulation_steps

    return Solved(any_setup.method.kind, solve(name, price, regime, least=least, most=_most(name, given, subject)))


def _most(name: str, given: dict[str, Any], subject: Subject) -> int:
    """The largest value that makes sense."""
    if name == "micro_batch":
        return LARGEST_MICRO_BATCH
    if name == "rank":  # above it, B A could be any matrix
        return max((min(weight.shape) for weight in subject.model.weights if len(weight.shape) == 2), default=1)
    longest = LARGEST_UNKNOWN_LENGTH if subject.model.context_length is None else subject.model.context_length
    longest -= given.get("virtual_tokens") or 0
    return longest if subject.rows is None else min(longest, max(2, subject.rows.longest_row))


def _object(flag: str, solved: list[Solved], unpriced: list[tuple[str, VramplanError]]) -> dict[str, Any]:
    def priced(candidate: Candidate | None) -> dict[str, Any] | None:
        return None if candidate is None else estimate_object(candidate)

    solutions = [
        {"method": method, "value": found.value, "least": found.least, "most": found.most}
        | {name: priced(getattr(found, name)) for name in ("candidate", "below", "above")}
        for method, found in solved
    ]
    return {
        "solve": flag,
        "solutions": solutions,
        "unpriced": [{"method": method, "reason": str(error)} for method, error in unpriced],
    }


def _show(flag: str, solved: list[Solved], unpriced: list[tuple[str, VramplanError]], subject: Subject) -> None:
    width = terminal_width()
    rows = [["method", flag.replace("-", " "), *HEAD[2:]]]
    for _, found in solved:
        around = ((found.below, -1), (found.candidate, 0), (found.above, 1))
        value = found.least - 1 if found.value is None else found.value
        rows += [_row(candidate, value + offset) for candidate, offset in around if candidate is not None]
    show(
        *subject_lines(subject.model, subject.device, subject.device_note, width=width),
        "",
        table(rows, "<>>>><<", width=width),
        "",
    )
    for _, found in solved:
        show(paragraph(_sentence(flag, found, solved_by=_kind(found)), width=width))
    for method, error in unpriced:
        show(paragraph(error.message, width=width, first=f"  {method}: not priced here: "))


def _row(candidate: Candidate, value: int) -> list[str]:
    budget = candidate.budget
    return [
        method_words(candidate.setup.method),
        str(value),
        format_bytes(budget.process_bytes),
        format_bytes(budget.high_process_bytes),
        "" if candidate.headroom_bytes is None else format_bytes(candidate.headroom_bytes),
        candidate.verdict or "none",
        budget.peak_phase.replace("_", " "),
    ]


def _kind(found: Solution) -> str:
    priced = found.candidate or found.above
    return priced.setup.method.kind if priced is not None else ""


def _sentence(flag: str, found: Solution, *, solved_by: str) -> str:
    if found.value is None:
        return f"{solved_by}: not even --{flag} {found.least} fits"
    sentence = f"{solved_by}: --{flag} {found.value} is the largest that fits"
    if found.value == found.most:
        sentence += ", and the largest that makes sense for this model"
    if found.below is not None and found.below.verdict != "fits":
        sentence += (
            f"; {found.value - 1} is {found.below.verdict}, because the allocator's segments round the other way"
        )
    return sentence
