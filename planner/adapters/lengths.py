"""How long the rows of a training file are, in tokens, by the model's own tokenizer and without torch.

Measured for ``text`` rows and for ``prompt`` + ``completion`` rows, as trl prepares them: the two joined, the end token
added where it is missing (trl/trainer/sft_trainer.py, add_eos and tokenize_fn). Conversations are written by the
tokenizer's chat template, which is a program; it is not run here, so they are not measured.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from vramplan.planner.workload import RowLengths

BATCH_ROWS = 1024
QUANTILES = 10


def measure_rows(data: Path, model_folder: Path) -> RowLengths | None:
    """How long a file's rows and completions are; None where they cannot be measured here."""
    tokenizer_file = model_folder / "tokenizer.json"
    end = _end_token(model_folder / "tokenizer_config.json")
    if end is None or not tokenizer_file.is_file():
        return None
    from tokenizers import Tokenizer  # 20 ms, and only where there is something to measure

    lengths: list[int] = []
    longest_completion = 0
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        # A saved tokenizer may pad or cut to a fixed length; the rows are wanted as they are.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        rows = _rows(data, end)
        while batch := list(islice(rows, BATCH_ROWS)):
            whole = [len(encoding.ids) for encoding in tokenizer.encode_batch([text for _, text in batch])]
            lengths += whole
            prompts = [prompt for prompt, _ in batch if prompt is not None]
            if len(prompts) == len(batch):
                before = (len(encoding.ids) for encoding in tokenizer.encode_batch(prompts))
                longest_completion = max(longest_completion, *(a - b for a, b in zip(whole, before, strict=True)))
    except Exception:  # tokenizers raises bare Exceptions; whatever a row or the file lacks, the run will say
        return None
    if not lengths:
        return None
    return RowLengths(
        longest_row=max(lengths), longest_completion=longest_completion or None, quantiles=quantiles(lengths)
    )


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


def _rows(data: Path, end: str) -> Iterator[tuple[str | None, str]]:
    """The prompt (None in a text row) and the whole text of each row."""
    with data.open(encoding="utf-8") as file:
        for line in file:
            if not line.strip():
                continue
            row = json.loads(line)
            prompt = None if "text" in row else row["prompt"]
            rest = row["text"] if prompt is None else row["completion"]
            yield prompt, (prompt or "") + (rest if rest.endswith(end) else rest + end)
