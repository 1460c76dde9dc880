"""The training data in a few lines: how long its rows are, and what a sequence length and padding make of them."""

from vramplan.planner.cli.render import paragraph
from vramplan.planner.cli.subject import Subject
from vramplan.planner.lengths import Histogram
from vramplan.planner.workload import RowLengths


def data_lines(subject: Subject, sequence_length: int | None, *, width: int) -> list[str]:
    """Nothing without data."""
    if subject.data is None:
        return []
    rows = subject.rows
    if rows is None or rows.histogram is None:
        text = f"{subject.num_examples:,} rows, counted, not measured"
        return [paragraph(text, width=width, first="data     ")]
    lines = [paragraph(_lengths(rows, rows.histogram, subject.num_examples), width=width, first="data     ")]
    if sequence_length is not None:
        lines.append(paragraph(_at(rows.histogram, sequence_length), width=width, first="         "))
    return lines


def _lengths(rows: RowLengths, histogram: Histogram, num_rows: int | None) -> str:
    p50, p95, p99 = (histogram.percentile(share) for share in (0.5, 0.95, 0.99))
    shown = f"{num_rows:,} rows: half up to {p50} tokens, 95 % up to {p95}, 99 % up to {p99}, the longest"
    shown += f" {rows.longest_row}"
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
    text += f"{cut.rows:,} rows are cut, {cut.lost_share:.1%} of all tokens" if cut.rows else "nothing is cut"
    text += f"; padding in batches of 4: {histogram.padding_share(4, sequence_length):.0%}"
    return f"{text}; packing puts {histogram.packing_gain(sequence_length):.1f} rows in one"
