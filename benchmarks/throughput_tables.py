"""The tables of README.md about published speeds, made of results/throughput.json."""

from collections import Counter
from collections.abc import Callable
from itertools import combinations
from statistics import median
from typing import Any

from tables import signed_percent, table

Row = dict[str, Any]
NEAR = 0.20


def markdown(rows: list[Row]) -> str:
    """All tables."""
    priced = [row for row in rows if "error" in row]
    parts = [_summary(priced), f"### Methods in order\n\n{_orders(priced)}"]
    for repository in dict.fromkeys(row["repository"] for row in priced):
        own = [row for row in priced if row["repository"] == repository and row["half"] == "report"]
        parts.append(f"### {repository}: the half that was held back\n\n{_rows(own)}")
    left_out = [row for row in rows if "not_reproduced" in row]
    parts.append(f"### Speeds not reproduced\n\n{_left_out(left_out)}")
    return "\n\n".join(parts)


def _summary(rows: list[Row]) -> str:
    head = ["source", "half", "rows", "median error", "median, signed", "worst", "within 20 %", "inside the range"]
    groups: list[tuple[str, Callable[[Row], bool]]] = [("all", lambda row: True)]
    for repository in dict.fromkeys(row["repository"] for row in rows):
        groups.append((repository, lambda row, name=repository: row["repository"] == name and not row["compiled"]))
        groups.append(
            (f"{repository}, compiled", lambda row, name=repository: row["repository"] == name and row["compiled"])
        )
    body = []
    for name, belongs in groups:
        for half in ("report", "fit"):
            own = [row for row in rows if belongs(row) and row["half"] == half]
            if own:
                body.append([name, "held back" if half == "report" else "fitted on", *_errors(own)])
    return table(head, body, "llrrrrrr")


def _errors(rows: list[Row]) -> list[str]:
    errors = [row["error"] for row in rows]
    worst = max(rows, key=lambda row: abs(row["error"]))
    inside = sum(row["low_seconds"] <= row["measured_seconds"] <= row["high_seconds"] for row in rows)
    return [
        str(len(rows)),
        f"{100 * median(map(abs, errors)):.1f} %",
        signed_percent(median(errors)),
        f"{signed_percent(worst['error'])} ({worst['model']}, {worst['method']}, {worst['sequence_length']} tokens)",
        str(sum(abs(error) <= NEAR for error in errors)),
        str(inside),
    ]


def _orders(rows: list[Row]) -> str:
    """Of one model's methods on one card at one length, how many pairs stand in the measured order."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        place = ("repository", "gpu", "gpus", "sequence_length", "micro_batch")
        groups.setdefault((_family(row["model"]), *(row[name] for name in place)), []).append(row)
    right = near = wrong = 0
    for own in groups.values():
        for one, other in combinations(own, 2):
            if one["method"] == other["method"]:
                continue
            measured = one["measured_seconds"] / other["measured_seconds"]
            predicted = one["predicted_seconds"] / other["predicted_seconds"]
            if (measured - 1) * (predicted - 1) > 0:
                right += 1
            elif abs(measured - 1) < 0.05:
                near += 1
            else:
                wrong += 1
    return (
        f"Pairs of methods on the same model, card, length and micro batch: {right} are in the measured order, {near} "
        f"do not and were measured within 5 %, {wrong} do not and were further apart."
    )


def _family(model: str) -> str:
    return model.removesuffix("-Chat").removesuffix("-Instruct")


def _rows(rows: list[Row]) -> str:
    head = ["model", "method", "GPU", "GPUs", "tokens", "rows", "measured", "predicted", "range", "error", "MFU"]
    body = [
        [
            row["model"],
            row["method"] + (", compiled" if row["compiled"] else ""),
            row["gpu"],
            str(row["gpus"]),
            str(row["sequence_length"]),
            str(row["micro_batch"]),
            f"{row['measured_seconds']:.3g} s",
            f"{row['predicted_seconds']:.3g} s",
            f"{row['low_seconds']:.3g} to {row['high_seconds']:.3g}",
            signed_percent(row["error"]),
            f"{row['mfu']:.0%}",
        ]
        for row in sorted(rows, key=lambda row: abs(row["error"]), reverse=True)
    ]
    return table(head, body, "lllrrrrrrrr")


def _left_out(rows: list[Row]) -> str:
    reasons = Counter((row["repository"], row["not_reproduced"]) for row in rows)
    body = [[repository, reason, str(number)] for (repository, reason), number in sorted(reasons.items())]
    return table(["source", "why", "rows"], body, "llr")
