"""How long the rows of a training file are, in tokens, by the model's own tokenizer and without torch.

Measured for ``text`` rows and for ``prompt`` + ``completion`` rows, as trl prepares them: the two joined, the end token
added where it is missing (trl/trainer/sft_trainer.py, add_eos and tokenize_fn). Rows of other tasks are what the
tokenizer makes of them. Conversations are written by the tokenizer's chat template, which is a program; it is not run
here, so they are not measured.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from vramplan.planner.rows import Rows
from vramplan.planner.workload import RowLengths

BATCH_ROWS = 1024
QUANTILES = 10


def measure_rows(data: Rows, model_folder: Path) -> RowLengths | None:
    """How long rows are, and their completions or targets; None where that cannot be measured here."""
    tokenizer_file = model_folder / "tokenizer.json"
    joined = data.kind in ("text", "prompt-completion")
    end = _end_token(model_folder / "tokenizer_config.json") if joined else ""
    if data.kind == "messages" or end is None or not tokenizer_file.is_file():
        return None
    from tokenizers import Tokenizer  # 20 ms, and only where there is something to measure

    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        # A saved tokenizer may pad or cut to a fixed length; the rows are wanted as they are.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if not joined:
            return _separate(data, tokenizer)
        whole = _lengths(tokenizer, (_joined(row, end) for row in data.rows))
        completions = [0]
        if data.kind == "prompt-completion":
            before = _lengths(tokenizer, (row["prompt"] for row in data.rows))
            completions = [a - b for a, b in zip(whole, before, strict=True)]
    except Exception:  # tokenizers raises bare Exceptions; whatever a row or the file lacks, the run will say
        return None
    return RowLengths(longest_row=max(whole), longest_completion=max(completions) or None, quantiles=quantiles(whole))


def _separate(data: Rows, tokenizer: Any) -> RowLengths:
    """What an encoder is given, and what a decoder is."""
    column = "text" if data.kind == "labelled" else "input"
    inputs = _lengths(tokenizer, (row[column] for row in data.rows))
    targets = _lengths(tokenizer, (row["target"] for row in data.rows)) if column == "input" else [0]
    return RowLengths(longest_row=max(1, *inputs), longest_target=max(targets) or None, quantiles=quantiles(inputs))


def _lengths(tokenizer: Any, texts: Iterator[str]) -> list[int]:
    lengths: list[int] = []
    while batch := list(islice(texts, BATCH_ROWS)):
        lengths += [len(encoding.ids) for encoding in tokenizer.encode_batch(batch)]
    return lengths


def quantiles(lengths: list[int]) -> tuple[int, ...]:
    """The lengths at every tenth of the rows, shortest and longest too.

    >>> quantiles([*range(101)])
    (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
    """
    ordered = sorted(lengths)
    return tuple(ordered[(len(ordered) - 1) * part // QUANTILES] for part in range(QUANTILES + 1))


def _end_token(config_file: Path) -> str | None:
    try:
        config: Any = json.loads(config_file.read_text(encoding="utf-8"))
        token = config.get("eos_token")
    except (OSError, ValueError, AttributeError):
        return None
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _joined(row: dict[str, Any], end: str) -> str:
    """A row's whole text, its prompt before it."""
    text: str = row["text"] if "text" in row else row["prompt"] + row["completion"]
    return text if text.endswith(end) else text + end
