"""The training data in a few lines: how long its rows are, what a sequence length and padding make of them, and one row
with what carries loss marked; and the same as JSON values."""

from typing import Any

from vramplan.planner.cli.render import paragraph
from vramplan.planner.cli.subject import Subject
from vramplan.planner.lengths import Histogram
from vramplan.planner.workload import RowLengths

PADDED_ROWS = 4
"""Rows in the batches whose padding is told."""
PERCENTILES = (0.5, 0.95, 0.99)


def data_lines(subject: Subject, sequence_length: int | None, *, completion_only: bool, width: int) -> list[str]:
    """Nothing without data.

    Args:
        completion_only: what comes before a completion carries no loss.
    """
    if subject.data is None:
        return []
    rows = subject.rows
    if rows is None or rows.histogram is None:
        text = f"{_counted(subject)}, counted, not measured"
        return [paragraph(text, width=width, first="data     ")]
    lines = [paragraph(f"{_counted(subject)}: {_lengths(rows, rows.histogram)}", width=width, first="data     ")]
    if sequence_length is not None:
        lines.append(paragraph(_at(rows.histogram, sequence_length), width=width, first="         "))
    if rows.example is not None:
        before, trained = rows.example
        has_prompt = subject.data.rows.kind in ("prompt-completion", "messages")
        marked = f"«{before}{trained}»" if has_prompt and not completion_only else f"{before}«{trained}»"
        text = f"{marked}  (between « and »: what carries loss{_guessed(rows)})"
        lines.append(paragraph(text, width=width, first="row 1    "))
    return lines


def data_object(subject: Subject, sequence_length: int | None) -> dict[str, Any] | None:
    """The lengths of the data's rows as JSON values; None without data, or where they were not measured."""
    rows = subject.rows
    if rows is None or rows.histogram is None:
        return None
    histogram = rows.histogram
    found = rows.model_dump(mode="json") | {
        "num_rows": subject.num_examples,
        "percentiles": {f"p{100 * share:.0f}": histogram.percentile(share) for share in PERCENTILES},
    }
    if sequence_length is not None:
        cut = histogram.cut(sequence_length)
        found["at"] = cut.model_dump(mode="json") | {
            "lost_share": cut.lost_share,
            "padding_share": {str(PADDED_ROWS): histogram.padding_share(PADDED_ROWS, sequence_length)},
            "packing_gain": histogram.packing_gain(sequence_length),
        }
    return found


def _guessed(rows: RowLengths) -> str:
    return "" if rows.estimated_because is None else "; the tokenizer's own tokens are not shown"


def _counted(subject: Subject) -> str:
    """How many rows train, and how many cannot be used."""
    num_rows = subject.num_examples
    counted = "1 row" if num_rows == 1 else f"{num_rows:,} rows"
    bad = subject.data.rows.bad if subject.data else ()
    return f"{counted} ({len(bad):,} left out, the first: {bad[0]})" if bad else counted


def _lengths(rows: RowLengths, histogram: Histogram) -> str:
    p50, p95, p99 = (histogram.percentile(share) for share in PERCENTILES)
    shown = f"half up to {p50} tokens, 95 % up to {p95}, 99 % up to {p99}, the longest {rows.longest_row}"
    if rows.estimated_because is not None:
        shown = (
            f"{shown}; estimated, the longest has {rows.shortest_guess} to {rows.longest_row}: {rows.estimated_because}"
        )
    if histogram.sampled_of is not None:
        low, high = histogram.percentile_bounds(0.95)
        shown += f"; a sample of {histogram.num_rows:,} rows, so 95 % lie below {low} to {high}"
    return shown


def _at(histogram: Histogram, sequence_length: int) -> str:
    cut = histogram.cut(sequence_length)
    text = f"at {sequence_length} tokens "
    rows = "1 row is cut" if cut.rows == 1 else f"{cut.rows:,} rows are cut"
    text += f"{rows}, {cut.lost_share:.1%} of all tokens" if cut.rows else "nothing is cut"
    text += f"; padding in batches of {PADDED_ROWS}: {histogram.padding_share(PADDED_ROWS, sequence_length):.0%}"
    return f"{text}; packing puts {histogram.packing_gain(sequence_length):.1f} rows in one"
