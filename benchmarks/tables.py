"""Figures as text, rows as Markdown, and Markdown between a document's markers."""

from pathlib import Path


def gib(size_bytes: int) -> str:
    """Bytes in GiB, to three digits below one and two above.

    >>> gib(3 * 2**29), gib(2**27)
    ('1.50 GiB', '0.125 GiB')
    """
    size = size_bytes / 2**30
    return f"{size:.3f} GiB" if abs(size) < 1 else f"{size:.2f} GiB"


def signed_percent(share: float) -> str:
    """A share with its sign.

    >>> signed_percent(-0.0123)
    '-1.2 %'
    """
    return f"{100 * share:+.1f} %"


def table(head: list[str], rows: list[list[str]], alignment: str) -> str:
    """A Markdown table; ``alignment`` has an l or r for each column."""
    rule = ["---:" if side == "r" else "---" for side in alignment]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def write_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->``."""
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, _, rest = path.read_text().partition(start)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{start}\n{text}\n\n{end}{after}")
