"""The accuracy tables of README.md, and rows.md, made of results/*.json, cases/*.jsonl and the planner's constants."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any, NamedTuple

from published_tables import CARDS_GIB
from tables import gib, signed_percent, table

from vramplan.planner.memory.outside import CONTEXT_BYTES, PRIOR
from vramplan.planner.throughput.fitted import CONSTANTS
from vramplan.planner.units import GIB

Row = dict[str, Any]
NEAR = 0.05


class Measurement(NamedTuple):
    """One figure that somebody measured, and ours."""

    source: str
    name: str
    method: str
    metric: str
    measured: float
    """Bytes, or seconds."""
    predicted: float
    sets: str
    """Which constants were set from it."""

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def markdown(measured: Sequence[Any], published: list[Row], cases: dict[str, Row], worst: list[Row]) -> str:
    """All tables."""
    return "\n\n".join(
        (
            _counts(measured),
            f"### By what was measured, and by whom\n\n{_grouped(measured, lambda each: (each.metric, each.source))}",
            f"### By method\n\n{_by_method(measured)}",
            f"### Would it have fitted?\n\n{_confusion(published)}",
            f"### The worst, by tensors\n\n{_worst(published, worst)}",
            f"### How each was obtained\n\n{_obtained(cases)}",
            f"### What any constant was set from\n\n{_constants(measured)}",
        )
    )


def rows_page(measured: Sequence[Any]) -> str:
    """A page with every single row."""
    head = (
        "# Every measurement\n\nWritten by `python benchmarks/accuracy.py`; [what it comes to](README.md). Error is "
        "predicted / measured - 1. `sets`: which constants were set from the row.\n"
    )
    body = [
        [
            *(each.source, each.name, each.method, each.metric, _figure(each.measured, each)),
            *(_figure(each.predicted, each), signed_percent(each.error), each.sets),
        ]
        for each in measured
    ]
    columns = ["source", "run", "method", "what", "measured", "predicted", "error", "sets"]
    return f"{head}\n{table(columns, body, 'llllrrrl')}\n"


def _figure(value: float, each: Measurement) -> str:
    return f"{value:.4g} s" if each.metric == "step time" else f"{round(value):,}"


def _counts(measured: Sequence[Any]) -> str:
    ours = sum(each.source.startswith("this project") for each in measured)
    setting = sum(not each.sets.startswith("none") for each in measured)
    return (
        f"{len(measured):,} measurements, {ours} of them ours, on CPUs; [each one](rows.md). Constants were set from "
        f"{setting} of them; from the others none ever was."
    )


def _grouped(measured: Iterable[Any], key: Callable[[Any], tuple[str, ...]]) -> str:
    groups: dict[tuple[str, ...], list[Any]] = {}
    for each in measured:
        groups.setdefault(key(each), []).append(each)
    body = [[*names, *_errors(own)] for names, own in groups.items()]
    return table(["what", "by", "rows", "median of sizes", "median", "worst", "within 5 %"], body, "llrrrrr")


def _by_method(measured: Sequence[Any]) -> str:
    """What others measured; steps on a CPU are exact or named above."""
    theirs = [each for each in measured if not each.source.startswith("this project")]
    groups: dict[tuple[str, str], list[Any]] = {}
    for each in theirs:
        groups.setdefault((each.method, each.metric), []).append(each)
    body = [[*names, *_errors(own)] for names, own in sorted(groups.items())]
    return table(["method", "what", "rows", "median of sizes", "median", "worst", "within 5 %"], body, "llrrrrr")


def _errors(own: Sequence[Any]) -> list[str]:
    errors = [each.error for each in own]
    near = sum(abs(error) <= NEAR for error in errors)
    return [
        str(len(errors)),
        f"{median(map(abs, errors)):.2%}",
        signed_percent(median(errors)),
        signed_percent(max(errors, key=abs)),
        f"{near} of {len(errors)}",
    ]


def _confusion(published: list[Row]) -> str:
    """A run's own card held it. The next smaller size in which cards are sold did not, where what was measured (a
    context added to reserved memory) is more than that size: nobody tried, so that line is by the measured bytes."""
    priced = [row for row in published if row["error"] is not None]
    where = [str(row["verdict"]) for row in priced]
    smaller = [verdict for row in priced if (verdict := _on_the_next_smaller(row)) is not None]
    body = [
        [name, str(len(verdicts)), *(str(verdicts.count(verdict)) for verdict in ("fits", "tight", "no"))]
        for name, verdicts in (
            ("it ran there", where),
            ("the next smaller card sold, which has less than it took", smaller),
        )
    ]
    return table(["a published run", "runs", "fits", "tight", "no"], body, "lrrrr")


def _on_the_next_smaller(row: Row) -> str | None:
    needed = row["measured_bytes"] + (CONTEXT_BYTES if row["metric"] == "reserved" else 0)
    small = [size * GIB for size in CARDS_GIB if size * GIB < needed]
    if not small:
        return None
    if row["high_bytes"]["process"] <= small[-1]:
        return "fits"
    return "tight" if row["predicted_bytes"]["process"] <= small[-1] else "no"


def _worst(published: list[Row], worst: list[Row]) -> str:
    """The miss beside what stands at the peak: which tensor would have to be wrong, or be missing."""
    rows = {row["id"]: row for row in published}
    body = []
    for each in worst:
        row = rows[each["id"]]
        predicted = row["predicted_bytes"]
        size = predicted[row["metric"]]
        tensors = "; ".join(
            f"{tensor['count']} x {tensor['label']} {tensor['shape']}: {gib(tensor['total_bytes'])}"
            for tensor in each["tensors"]
        )
        parts = ", ".join(f"{name} {gib(part)}" for name, part in each["parts"].items() if part >= GIB // 100)
        body.append(
            [
                each["id"],
                gib(row["measured_bytes"]),
                gib(size - row["measured_bytes"]),
                gib(max(0, size - predicted["allocated"])),
                each["phase"],
                parts,
                tensors,
            ]
        )
    head = ["run", "measured", "predicted less that", "beyond tensors", "peak in", "its parts", "largest inside a step"]
    return table(head, body, "lrrrlll")


def _obtained(cases: dict[str, Row]) -> str:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for case in cases.values():
        key = (case["source"]["repository"], case["measured"]["how"], case["versions"], case["gpu"])
        groups.setdefault(key, []).append(case)
    body = [
        [
            *key,
            str(len(own)),
            str(sum("unknown" in case or "mean_batch" in case for case in own)),
            f"`{own[0]['source']['path']}`" + (" and others" if len({c["source"]["path"] for c in own}) > 1 else ""),
        ]
        for key, own in groups.items()
    ]
    head = ["source", "how", "with", "on", "runs", "an input inferred", "from"]
    return table(head, body, "llllrrl")


def _constants(measured: Sequence[Any]) -> str:
    """Those of memory come from elsewhere; those of time from half of the speeds."""
    fitted = sum(not each.sets.startswith("none") for each in measured)
    body = [
        ["context, at start", gib(PRIOR.context_bytes), PRIOR.context_source, "0"],
        ["context, at most", gib(PRIOR.high_context_bytes), PRIOR.context_source, "0"],
        ["cuBLAS's workspaces", "by device", PRIOR.workspace_source, "0"],
        ["kept back of what lives inside a step", f"{PRIOR.dynamic_fraction:.0%}", PRIOR.dynamic_source, "0"],
        ["step times", ", ".join(_time_constants()), CONSTANTS.basis, str(fitted)],
    ]
    return table(["constant", "value", "from", "rows here it was set from"], body, "lllr")


def _time_constants() -> list[str]:
    return [f"{name} {value:g}" for name, value in vars(CONSTANTS).items() if isinstance(value, float)]
