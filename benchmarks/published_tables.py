"""The tables of README.md about published runs, made of results/published.json."""

from collections import Counter
from collections.abc import Callable
from statistics import correlation, mean, median
from typing import Any

from tables import gib, signed_percent, table

from vramplan.planner.memory.outside import CONTEXT_BYTES
from vramplan.planner.units import GIB

Case = dict[str, Any]
Row = dict[str, Any]
CARDS_GIB = (8, 10, 12, 16, 20, 24, 32, 40, 48, 80)
"""The sizes cards are sold in."""
NEAR = 0.05
NEAR_BYTES = GIB // 2


def markdown(cases: list[Case], rows: list[Row], not_reproduced: list[Case]) -> str:
    """All tables."""
    priced = [row for row in rows if row["error"] is not None]
    parts = [_summary(rows)]
    for repository in dict.fromkeys(row["repository"] for row in rows):
        own = [row for row in rows if row["repository"] == repository]
        parts.append(f"### {repository}\n\n{_rows(own)}")
    parts.append(f"### What one choice changes\n\n{_differences(cases, priced)}")
    parts.append(f"### Ranges and verdicts\n\n{_ranges(priced)}")
    parts.append(f"### Not reproduced\n\n{_left_out(not_reproduced)}")
    return "\n\n".join(parts)


def _summary(rows: list[Row]) -> str:
    head = ["source", "runs", "priced", "what", "median error", "worst error", "within 5 %", "rank correlation"]
    body = []
    for repository in dict.fromkeys(row["repository"] for row in rows):
        own = [row for row in rows if row["repository"] == repository]
        pairs = [
            (row["measured_bytes"], row["predicted_bytes"][row["metric"]]) for row in own if row["error"] is not None
        ]
        body.append([repository, str(len(own)), str(len(pairs)), own[0]["metric"], *_errors(pairs)])
        emptied = [(row["measured_bytes"], row["emptied"]["predicted_bytes"]) for row in own if "emptied" in row]
        if emptied:
            name = "reserved, from an emptied cache"
            body.append([repository, str(len(own)), str(len(emptied)), name, *_errors(emptied)])
        ends = [row["end_of_step"] for row in own if "end_of_step" in row]
        if ends:
            pairs = [(end["measured_bytes"], end["predicted_bytes"]) for end in ends]
            body.append(
                [repository, str(len(own)), str(len(ends)), "allocated at the end of a step, mean", *_errors(pairs)]
            )
    return table(head, body, "lrrlrrrr")


def _errors(pairs: list[tuple[int, int]]) -> list[str]:
    if not pairs:
        return [""] * 4
    errors = [ours / measured - 1 for measured, ours in pairs]
    near = sum(abs(error) <= NEAR for error in errors)
    ranks = correlation(_ranks([pair[0] for pair in pairs]), _ranks([pair[1] for pair in pairs]))
    worst = max(errors, key=abs)
    return [signed_percent(median(errors)), signed_percent(worst), f"{near} of {len(pairs)}", f"{ranks:.3f}"]


def _ranks(values: list[int]) -> list[float]:
    """Each value's place; equal ones share the mean of theirs (Spearman)."""
    ordered = sorted(values)
    return [mean(place for place, other in enumerate(ordered) if other == value) for value in values]


def _rows(rows: list[Row]) -> str:
    """By what was measured, so that an order that is not ours shows."""
    has = {name: any(name in row for row in rows) for name in ("emptied", "error_otherwise", "end_of_step")}
    head = ["run", "measured", "predicted", "error", *(["from an emptied cache", "error"] if has["emptied"] else [])]
    head += ["what is unknown otherwise"] if has["error_otherwise"] else []
    head += ["end of step, measured", "predicted", "error"] if has["end_of_step"] else []
    body = []
    for row in sorted(rows, key=lambda row: int(row["measured_bytes"])):
        if row["error"] is None:
            body.append([row["id"], gib(row["measured_bytes"]), "not priced", *[""] * (len(head) - 3)])
            continue
        cells = [gib(row["measured_bytes"]), gib(row["predicted_bytes"][row["metric"]]), signed_percent(row["error"])]
        if has["emptied"]:
            cells += [gib(row["emptied"]["predicted_bytes"]), signed_percent(row["emptied"]["error"])]
        if has["error_otherwise"]:
            cells.append(" to ".join(signed_percent(error) for error in row.get("error_otherwise", [])))
        if has["end_of_step"]:
            end = row["end_of_step"]
            cells += [_fine(end["measured_bytes"]), _fine(end["predicted_bytes"]), f"{100 * end['error']:+.2f} %"]
        body.append([row["id"], *cells])
    return table(head, body, "l" + "r" * (len(head) - 1))


def _fine(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.3f} GiB"


def _differences(cases: list[Case], priced: list[Row]) -> str:
    """Runs of the same batches: what is unknown about the batches cancels."""
    by_id = {row["id"]: row for row in priced}
    body = []
    for case in cases:
        row, other = by_id.get(case["id"]), by_id.get(case.get("compare_with", ""))
        if row is None or other is None:
            continue
        at_peak = _both(row, other, lambda one: (one["measured_bytes"], one["emptied"]["predicted_bytes"]))
        at_end = _both(
            row, other, lambda one: (one["end_of_step"]["measured_bytes"], one["end_of_step"]["predicted_bytes"])
        )
        body.append([f"{row['id']} over {other['id']}", *at_peak, *at_end])
    head = [
        "difference",
        "reserved, measured",
        "from an emptied cache",
        "off by",
        "end of step, measured",
        "predicted",
        "off by",
    ]
    return table(head, body, "lrrrrrr")


def _both(row: Row, other: Row, figures: Callable[[Row], tuple[int, int]]) -> list[str]:
    measured, ours = (mine - theirs for mine, theirs in zip(figures(row), figures(other), strict=True))
    return [gib(measured), gib(ours), gib(ours - measured)]


def _ranges(priced: list[Row]) -> str:
    """How wide a range is, and what a verdict by it would have been.

    ``just large enough``: a card with exactly the measured bytes. ``smallest card sold``: that holds them, a context
    added where only reserved memory was measured; a false fit is then one on the next smaller card. ``where it ran``:
    the command's verdict on the case's own card, which it fitted; "tight" is said to be likely, "no" is a refusal.
    """
    head = ["source", "runs", "median width", "as a share", "narrow enough", "above the range", "refused", *_SOLD]
    head += ["fits where it ran", "tight", "no"]
    body = [_range_row(repository, own) for repository, own in _by_repository(priced).items()]
    body.append(_range_row("all", priced))
    emptied = [_from_empty(row) for row in priced if "emptied" in row]
    body += [_range_row(f"{name}, from an emptied cache", own) for name, own in _by_repository(emptied).items()]
    return table(head, body, "lrrrrrrrrrrr")


def _from_empty(row: Row) -> Row:
    """The row with its figures moved to where a step with an emptied cache stands."""
    moved = row["emptied"]["predicted_bytes"] - row["predicted_bytes"]["reserved"]
    figures = {
        name: {metric: size + moved for metric, size in row[name].items()} for name in ("predicted_bytes", "high_bytes")
    }
    return row | figures | {"verdict": None}


_SOLD = ("refused on the smallest card sold", "false fits on the next smaller")


def _by_repository(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["repository"], []).append(row)
    return found


def _range_row(name: str, rows: list[Row]) -> list[str]:
    widths = [row["high_bytes"][row["metric"]] - row["predicted_bytes"][row["metric"]] for row in rows]
    shares = [width / row["predicted_bytes"][row["metric"]] for width, row in zip(widths, rows, strict=True)]
    narrow = sum(width <= NEAR_BYTES or share <= NEAR for width, share in zip(widths, shares, strict=True))
    above = sum(row["measured_bytes"] > row["high_bytes"][row["metric"]] for row in rows)
    refused = sum(row["predicted_bytes"][row["metric"]] > row["measured_bytes"] for row in rows)
    sold = [_on_cards_sold(row) for row in rows]
    return [
        name,
        str(len(rows)),
        gib(round(median(widths))),
        f"{100 * median(shares):.1f} %",
        str(narrow),
        str(above),
        str(refused),
        str(sum(no for no, _ in sold)),
        str(sum(fits for _, fits in sold)),
        *(str(sum(row["verdict"] == verdict for row in rows)) for verdict in ("fits", "tight", "no")),
    ]


def _on_cards_sold(row: Row) -> tuple[bool, bool]:
    """(refused where it ran, said to fit where it cannot have)."""
    needed = row["measured_bytes"] + (CONTEXT_BYTES if row["metric"] == "reserved" else 0)
    holds = [size * GIB for size in CARDS_GIB if size * GIB >= needed]
    small = [size * GIB for size in CARDS_GIB if size * GIB < needed]
    refused = bool(holds) and row["predicted_bytes"]["process"] > holds[0]
    return refused, bool(small) and row["high_bytes"]["process"] <= small[-1]


def _left_out(not_reproduced: list[Case]) -> str:
    """Counts by source and reason; the names after a reason's colon in one cell."""
    counted: Counter[tuple[str, str]] = Counter()
    names: dict[tuple[str, str], set[str]] = {}
    for case in not_reproduced:
        reason, _, name = case["reason"].partition(": ")
        key = (case["source"]["repository"], reason)
        counted[key] += 1
        names.setdefault(key, set()).update({name} - {""})
    body = [
        [key[0], str(count), f"{key[1]}: {', '.join(sorted(names[key]))}" if names[key] else key[1]]
        for key, count in counted.most_common()
    ]
    return table(["source", "runs", "why"], body, "lrl")
