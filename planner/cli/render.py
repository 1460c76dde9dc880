"""Plain text for a terminal: aligned columns, wrapped sentences, and nothing a name could smuggle in.

No colour is used, so ``NO_COLOR`` has nothing to turn off. stdout is data, stderr is narration.
"""

import json
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

MIN_WIDTH, MAX_WIDTH, PIPED_WIDTH = 60, 160, 100
_INERT_CATEGORIES = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}


def plain(text: str) -> str:
    """The same text with every control, direction and line character written out.

    >>> plain("a\\x1b[31mb\\u202ec")
    'a\\\\x1b[31mb\\\\u202ec'
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _INERT_CATEGORIES
        else character
        for character in text
    )


def terminal_width() -> int:
    """Columns to write in: the terminal's (or ``COLUMNS``), within reason; a fixed width when piped."""
    return max(MIN_WIDTH, min(MAX_WIDTH, shutil.get_terminal_size((PIPED_WIDTH, 24)).columns))


def paragraph(text: str, *, width: int, first: str = "", indent: str | None = None) -> str:
    """A sentence wrapped to the width, later lines under the first one's text.

    >>> paragraph("one two three", width=10, first="a  ")
    'a  one two\\n   three'
    """
    return textwrap.fill(
        plain(text),
        width=width,
        initial_indent=first,
        subsequent_indent=" " * len(first) if indent is None else indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def items(parts: Iterable[str], *, width: int, first: str = "") -> str:
    """Short parts with middle dots between them, broken only between parts; a part longer than a line, in itself too.

    >>> items(["--rank 8", "--alpha 32", "--loop plain"], width=24, first="given  ")
    'given  --rank 8 ·\\n       --alpha 32 ·\\n       --loop plain'
    >>> items(["--rank 8", "--alpha 32 (twice the rank)"], width=16)
    '--rank 8 ·\\n--alpha 32\\n(twice the rank)'
    """
    room = width - len(first) - len(" ·")
    cleaned = (plain(part) for part in parts)
    glued = " · ".join(each if len(each) > room else each.replace(" ", "\N{NO-BREAK SPACE}") for each in cleaned)
    glued = glued.replace(" · ", "\N{NO-BREAK SPACE}· ")
    return paragraph(glued, width=width, first=first).replace("\N{NO-BREAK SPACE}", " ")


def table(
    rows: Sequence[Sequence[str]], align: str, *, width: int, indent: str = "  ", spare: Sequence[str] = ()
) -> str:
    """Rows as columns two spaces apart; the first row is the head. The last column wraps.

    Args:
        align: one of ``<`` and ``>`` per column.
        spare: heads of columns that are left out, the first first, where the width is not enough.

    >>> print(table([["part", "size", "why"], ["weights", "2.00 GiB", "all of them"]], "<><", width=40))
      part         size  why
      weights  2.00 GiB  all of them
    """
    cells = [[plain(cell) for cell in row] for row in rows]
    for head in spare:
        if len(indent) + sum(max(map(len, column)) + 2 for column in zip(*cells, strict=True)) - 2 > width:
            gone = cells[0].index(head)
            cells = [row[:gone] + row[gone + 1 :] for row in cells]
            align = align[:gone] + align[gone + 1 :]
    widths = [max(len(row[column]) for row in cells) for column in range(len(align))]
    before_last = len(indent) + sum(size + 2 for size in widths[:-1])
    widths[-1] = max(min(16, widths[-1]), min(widths[-1], width - before_last))
    lines = []
    for row in cells:
        fixed = [f"{cell:{side}{size}}" for cell, side, size in zip(row[:-1], align[:-1], widths[:-1], strict=True)]
        last = textwrap.wrap(row[-1], widths[-1], break_on_hyphens=False) or [""]
        lines.append(indent + "  ".join([*fixed, f"{last[0]:{align[-1]}{widths[-1]}}"]).rstrip())
        lines += [" " * before_last + rest for rest in last[1:]]
    return "\n".join(lines)


def show(*blocks: str) -> None:
    """Write blocks of text to stdout, each ending its line."""
    sys.stdout.write("".join(f"{block}\n" for block in blocks))


def show_json(content: Any) -> None:
    """Write one JSON document to stdout."""
    sys.stdout.write(json.dumps(content, indent=2, allow_nan=False) + "\n")


def tell(*lines: str) -> None:
    """Write narration to stderr."""
    sys.stderr.write("".join(f"{plain(line)}\n" for line in lines))


def joined(parts: Iterable[str]) -> str:
    """Parts of a headline with a middle dot between them; empty ones left out."""
    return " · ".join(part for part in parts if part)
