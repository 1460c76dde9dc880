"""How long the rows of a training file are, in tokens, by the model's own tokenizer and without torch.

``text`` rows and ``prompt`` + ``completion`` rows are counted as trl prepares them: the two joined, the end token added
where it is missing (trl/trainer/sft_trainer.py, add_eos and tokenize_fn); conversations as the chat template writes
them; rows of other tasks are what the tokenizer makes of them. Counted once: the answer is cached under the hashes of
data, tokenizer and template. Of very large data a sample is counted, and the rows with the most bytes besides. Where
the tokenizer is out of reach lengths are guessed from bytes, and said to be.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import platformdirs

from vramplan.planner.adapters.cancelling import check_wanted
from vramplan.planner.adapters.chat_templates import Render, can_render, renderer
from vramplan.planner.adapters.tokenizer_files import TokenizerFiles
from vramplan.planner.errors import BadDataError
from vramplan.planner.lengths import Histogram, histogram_of
from vramplan.planner.rows import Rows
from vramplan.planner.workload import RowLengths

BATCH_ROWS = 1024
SAMPLE_BYTES = 64 * 2**20
"""Data with more text than this is sampled: about ten seconds of counting."""
LONGEST_ROWS = 1000
"""Rows with the most bytes, which are counted beside a sample."""
BYTES_PER_TOKEN = (2.0, 5.0)
"""Bytes of UTF-8 a token, at worst and at best. English: 3.2 characters with Llama 2's tokenizer, 3.9 with Llama 3's
(arXiv:2407.21783, 3.2); code and other alphabets have fewer."""
VERSION = 2
"""Of this way of counting: another is counted afresh."""
SHOWN_CHARACTERS = 160


class Text(NamedTuple):
    """A row as text: what comes before the answer (None: there is no such part), and the whole."""

    before: str | None
    whole: str


def measure_rows(
    data: Rows, files: TokenizerFiles | str, *, sha256: str = "", chat_template: str | None = None
) -> RowLengths:
    """How long rows are, and their completions or targets.

    Args:
        files: the tokenizer, or why it is out of reach.
        sha256: of the data; without it nothing is cached.
        chat_template: a template in place of the tokenizer's own.

    Raises:
        BadDataError: conversations, and no chat template to write them with; or one that fails on a row.
    """
    if isinstance(files, str):
        return guess_rows(data, files)
    if data.kind in ("text", "prompt-completion") and files.end is None:
        return guess_rows(data, "its tokenizer_config.json names no end token")
    template = chat_template or files.chat_template
    if data.kind == "messages" and template is None:
        raise BadDataError(
            f"{data.path} holds messages, but the tokenizer has no chat template to write them with",
            remedy="give one with --chat-template FILE, or use the instruction-tuned model",
        )
    if data.kind == "messages" and not can_render():
        return guess_rows(
            data, "conversations are written by jinja, which is not installed: pip install 'vramplan[train]'"
        )
    cached = _cache_path(data, files, sha256, template) if sha256 else None
    if cached is not None:
        with suppress(OSError, ValueError):
            return RowLengths.model_validate_json(cached.read_text(encoding="utf-8"))
    render = renderer(files, template) if data.kind == "messages" and template else None
    lengths = _measured(data, files, render)
    if cached is not None:
        with suppress(OSError):  # a cache that cannot be written costs the next count, not this one
            cached.parent.mkdir(parents=True, exist_ok=True)
            cached.write_text(lengths.model_dump_json(), encoding="utf-8")
    return lengths


def _measured(data: Rows, files: TokenizerFiles, render: Render | None) -> RowLengths:
    from tokenizers import Tokenizer  # 20 ms, and only where there is something to measure

    try:
        tokenizer = Tokenizer.from_file(str(files.tokenizer))
    except Exception as error:
        return guess_rows(data, f"its tokenizer.json cannot be read ({str(error)[:60]})")
    # A saved tokenizer may pad or cut to a fixed length; the rows are wanted as they are.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    end = files.end or ""
    chosen, extra = _chosen(data)
    special = render is None  # a template writes them itself
    texts = [_text(data, number, end, render) for number in (*chosen, *extra)]
    whole = _count(tokenizer, [text.whole for text in texts], special=special)
    after = [0]
    if texts[0].before is not None:
        befores = _count(tokenizer, [text.before or "" for text in texts], special=special)
        after = [
            length if data.kind == "input-target" else total - length
            for total, length in zip(whole, befores, strict=True)
        ]
    sampled = len(data.rows) if len(chosen) < len(data.rows) else None
    return _summary(data, histogram_of(whole[: len(chosen)], sampled), max(whole), max(after), texts[0])


def _summary(data: Rows, histogram: Histogram, longest: int, longest_after: int, first: Text) -> RowLengths:
    is_target = data.kind == "input-target"
    return RowLengths(
        longest_row=max(1, longest),
        longest_completion=(longest_after or None) if not is_target else None,
        longest_target=(longest_after or None) if is_target else None,
        quantiles=histogram.quantiles(),
        histogram=histogram,
        example=_example(data, first),
    )


def _example(data: Rows, first: Text) -> tuple[str, str]:
    """What of the first row carries no loss, and what does: its end, or its target or label."""
    if data.kind == "input-target":
        return first.whole[-SHOWN_CHARACTERS:], (first.before or "")[:SHOWN_CHARACTERS]
    if data.kind == "labelled":
        return first.whole[-SHOWN_CHARACTERS:], str(data.rows[0]["label"])[:SHOWN_CHARACTERS]
    before = first.before or ""
    return before[-SHOWN_CHARACTERS:], first.whole[len(before) :][:SHOWN_CHARACTERS]


def _text(data: Rows, number: int, end: str, render: Render | None) -> Text:
    row = data.rows[number]
    if data.kind == "messages":
        assert render is not None
        try:
            return Text(render(row["messages"][:-1], True), render(row["messages"], False))
        except Exception as error:  # a template may raise anything
            raise BadDataError(
                f"the chat template fails on row {number + 1} of {data.path}: {str(error)[:100]}",
                remedy="mend the row, or give another template with --chat-template FILE",
            ) from error
    if data.kind == "prompt-completion":
        return Text(row["prompt"], row["prompt"] + _ended(row["completion"], end))
    if data.kind == "input-target":
        return Text(row["target"], row["input"])  # two sequences; what is counted apart is the target
    return Text(None, _ended(row["text"], end) if data.kind == "text" else row["text"])


def _ended(text: str, end: str) -> str:
    return text if text.endswith(end) else text + end


def _chosen(data: Rows) -> tuple[Sequence[int], Sequence[int]]:
    """Rows to count for the histogram: all, or a random sample; and the rest of those with the most bytes."""
    sizes = [_size(row) for row in data.rows]
    total = sum(sizes)
    if total <= SAMPLE_BYTES:
        return range(len(sizes)), ()
    wanted = max(1, len(sizes) * SAMPLE_BYTES // total)
    sample = sorted(Random(0).sample(range(len(sizes)), wanted))
    longest = sorted(range(len(sizes)), key=lambda number: -sizes[number])[:LONGEST_ROWS]
    known = set(sample)
    return sample, [number for number in longest if number not in known]


def _size(row: dict[str, Any]) -> int:
    """Bytes of a row's text."""
    if "messages" in row:
        return sum(len(message["content"].encode()) for message in row["messages"])
    return sum(len(value.encode()) for value in row.values() if isinstance(value, str))


def _count(tokenizer: Any, texts: Sequence[str], *, special: bool) -> list[int]:
    """Tokens of each text, with progress once it takes more than a moment."""
    lengths: list[int] = []
    waiting: Iterator[str] = iter(texts)
    shown = time.monotonic()
    while batch := list(islice(waiting, BATCH_ROWS)):
        check_wanted()
        lengths += [len(encoding.ids) for encoding in tokenizer.encode_batch(batch, add_special_tokens=special)]
        if time.monotonic() - shown > 2:
            shown = time.monotonic()
            print(f"counted the tokens of {len(lengths):,} of {len(texts):,} rows", file=sys.stderr)  # noqa: T201 - narration
    return lengths


def guess_rows(data: Rows, because: str) -> RowLengths:
    """Upper ends of lengths from bytes; the run counts them with the tokenizer and is priced anew.

    Args:
        because: why they are not counted.
    """
    column = {"input-target": "input", "labelled": "text"}.get(data.kind)
    sizes = [_size({column: row[column]} if column else row) for row in data.rows]
    least, most = BYTES_PER_TOKEN
    histogram = histogram_of(max(2, int(size / least)) for size in sizes)
    targets = [_size({"target": row["target"]}) for row in data.rows] if data.kind == "input-target" else []
    return RowLengths(
        longest_row=histogram.longest,
        longest_target=max(2, int(max(targets) / least)) if targets else None,
        quantiles=histogram.quantiles(),
        histogram=histogram,
        estimated_because=f"{least:g} to {most:g} bytes a token, as {because}",
        shortest_guess=max(1, int(max(sizes) / most)),
        example=None if data.kind == "messages" else _example(data, _text(data, 0, "", None)),
    )


def _cache_path(data: Rows, files: TokenizerFiles, sha256: str, template: str | None) -> Path:
    parts = (VERSION, sha256, data.kind, len(data.rows), _sha256(files.tokenizer), files.end, template)
    name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return Path(platformdirs.user_cache_dir("vramplan")) / "lengths" / f"{name}.json"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
