"""peers.md, made of results/peers.json."""

from collections.abc import Iterable
from statistics import median
from typing import Any

from tables import gib, signed_percent, table

Row = dict[str, Any]
NEAR = 0.05
OURS = "vramplan"
_HEAD = """# Beside other planners

`make peers` installs {names} into an environment that is
thrown away, asks each what is asked here, in one run on one machine without a network, and writes this page. All of
them are under the MIT licence. No figure on it is typed by hand.
"""


def page(result: dict[str, Any]) -> str:
    """The whole page."""
    names = list(result["peers"])
    parts = [
        _HEAD.format(names=f"{', '.join(names[:-1])} and {names[-1]}"),
        f"## In short\n\n{_short(result)}",
        f"## Accuracy\n\n{_accuracy(result)}",
        f"### Run by run\n\n{_rows(result['rows'], names)}",
        f"### What cannot be said in their options\n\n{_unasked(result['rows'])}",
        f"## Time\n\n{_times(result)}",
        f"## What their commands offer\n\n{_features(result)}",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _pairs(rows: Iterable[Row], name: str) -> list[tuple[int, int]]:
    return [(row["measured_bytes"], row["predicted_bytes"][name]) for row in rows if name in row["predicted_bytes"]]


def _error(pair: tuple[int, int]) -> float:
    return pair[1] / pair[0] - 1


def _typical(pairs: list[tuple[int, int]]) -> float:
    return median(abs(_error(pair)) for pair in pairs)


def _short(result: dict[str, Any]) -> str:
    """Who is first in what."""
    rows, names = result["rows"], list(result["peers"])
    lines = []
    for name in names:
        same = [row for row in rows if name in row["predicted_bytes"] and OURS in row["predicted_bytes"]]
        if same:
            theirs, ours = _typical(_pairs(same, name)), _typical(_pairs(same, OURS))
            nearer = name if theirs < ours else OURS
            lines.append(
                f"- On the {len(same)} runs that {name} can express, half its errors are below {theirs:.1%}, half of "
                f"{OURS}'s below {ours:.1%}: {nearer} is nearer."
            )
    for title, key, unit in (
        ("Cold start of one estimate", "cold", "ms of processor time"),
        ("Cold start of a recommendation", "which", "ms of processor time"),
    ):
        ordered = sorted(result[key].items(), key=lambda each: each[1]["cpu_seconds"])
        told = ", ".join(f"{name} {1000 * each['cpu_seconds']:.0f}" for name, each in ordered)
        lines.append(f"- {title}, {unit}: {told}.")
    if found := result.get("search"):
        lines.append(
            f"- The search of that recommendation alone, in a running {OURS}: {1000 * found['cpu_seconds']:.0f} ms of "
            f"processor time, {1000 * found['wall_seconds']:.0f} ms on the clock."
        )
    rates = sorted(result["a_second"].items(), key=lambda each: -each[1])
    lines.append(f"- Estimates a second: {', '.join(f'{name} {rate:,.0f}' for name, rate in rates)}.")
    return "\n".join(lines)


def _accuracy(result: dict[str, Any]) -> str:
    """Everyone on the runs it can express, and on those that all of several can."""
    rows, names = result["rows"], [OURS, *result["peers"]]
    body = []
    for name in names:
        pairs = _pairs(rows, name)
        if not pairs:
            body.append([name, "0", *[""] * 4, result["peers"].get(name, {}).get("figure", "")])
            continue
        errors = [_error(pair) for pair in pairs]
        body.append(
            [
                name,
                str(len(pairs)),
                f"{_typical(pairs):.1%}",
                signed_percent(median(errors)),
                signed_percent(max(errors, key=abs)),
                f"{sum(abs(error) <= NEAR for error in errors)} of {len(errors)}",
                result["peers"].get(name, {}).get("figure", "the metric that was measured"),
            ]
        )
    head = ["planner", "runs", "median of sizes", "median", "worst", "within 5 %", "its figure"]
    return (
        "Error is predicted / measured - 1, on the runs of `cases/published.jsonl` that at least one of the others can "
        "express. What was measured is reserved memory or, of unsloth's, what a card had to have. Where LoRA's targets "
        "have no names, those whose set is part of attention are asked as all of attention. ms-swift's rows vary in "
        f"length: {OURS} is told how, the others have no option for it and are told the longest. Weights are in bf16 "
        "(bases of QLoRA in 4 bits), as those runs had them.\n\n"
        f"{table(head, body, 'lrrrrrl')}"
    )


def _rows(rows: list[Row], names: list[str]) -> str:
    body = []
    for row in rows:
        if not row["predicted_bytes"]:
            continue
        cells = []
        for name in (OURS, *names):
            size = row["predicted_bytes"].get(name)
            cells.append("" if size is None else signed_percent(_error((row["measured_bytes"], size))))
        body.append([row["id"], row["metric"], gib(row["measured_bytes"]), *cells])
    return table(["run", "what", "measured", OURS, *names], body, "ll" + "r" * (2 + len(names)))


def _unasked(rows: list[Row]) -> str:
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        for name, reason in row["unasked"].items():
            counts[name, reason] = counts.get((name, reason), 0) + 1
    body = [[name, reason, str(count)] for (name, reason), count in sorted(counts.items())]
    return table(["planner", "why", "runs"], body, "llr")


def _times(result: dict[str, Any]) -> str:
    machine = result["machine"]
    which = "; ".join(f"{name}: {what}" for name, what in result["what_which_is"].items())
    facts = (
        f"Medians of {result['runs']} runs in turn; Python {machine['python']}, {machine['architecture']}, load "
        f"{machine['load_average']} (shared: trust processor time). Asked: `{' '.join(result['asked'])}`, by the "
        f"others as near as their options say it. A recommendation is, of {which}; of {OURS} a search of thousands of "
        "setups by replay."
    )
    body = []
    for name in (OURS, *result["peers"]):
        cells = []
        for key in ("cold", "which"):
            seconds = result[key].get(name)
            cells += ["", ""] if seconds is None else [f"{1000 * seconds[each]:.0f} ms" for each in seconds]
        body.append([name, *cells, f"{result['a_second'][name]:,.0f}"])
    peaks = f"{OURS}, allocated peaks"
    body.append([peaks, *[""] * 4, f"{result['a_second'][peaks]:,.0f}"])
    head = ["planner", "estimate, cold: wall", "processor", "recommendation, cold: wall", "processor", "a second"]
    return f"{facts}\n\n{table(head, body, 'lrrrrr')}"


def _features(result: dict[str, Any]) -> str:
    names = list(result["peers"])
    body = [[feature, *("yes" if name in has else "" for name in names)] for feature, has in result["features"].items()]
    versions = ", ".join(f"{name} {facts['version']}" for name, facts in result["peers"].items())
    return (
        f"As the help of {versions} says; an empty cell is a thing it does not name. For {OURS} see "
        f"[README](../README.md).\n\n{table(['', *names], body, 'l' * (1 + len(names)))}"
    )
