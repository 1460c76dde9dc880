"""The demo's text: short question-and-answer pairs, without repeats, split so that nothing held out was trained on.

Source: the package chatterbot-corpus (BSD licence), English files: lists of utterances taken in turn. Many questions
occur with several answers and many answers to several questions, so a random split leaks; here every prompt and every
completion occurs once in the whole set, compared by their words alone.
"""

import json
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from vramplan.planner.errors import BadDataError

HELD_OUT_ROWS = 64
LONGEST_COMPLETION_CHARACTERS = 300
"""Longer answers (mostly program listings) would only widen every batch of a small demonstration."""

_WORD = re.compile(r"\w+")


class Pair(NamedTuple):
    """What one side says, and the answer to learn."""

    prompt: str
    completion: str


class Split(NamedTuple):
    """Rows to train on and rows held out; no prompt and no completion is in both."""

    train: tuple[Pair, ...]
    held_out: tuple[Pair, ...]


def words_of(text: str) -> str:
    """The text as compared: its words, case-folded, without punctuation.

    >>> words_of("What  is AI?") == words_of("what is ai")
    True
    """
    return " ".join(_WORD.findall(text.casefold()))


def without_repeats(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """The pairs whose prompt and whose completion nobody used before; empty and over-long ones are dropped.

    >>> without_repeats([Pair("Hi", "Hello."), Pair("hi!", "Hey."), Pair("Morning", "hello"), Pair("Bye", "See you.")])
    (Pair(prompt='Hi', completion='Hello.'), Pair(prompt='Bye', completion='See you.'))
    """
    prompts: set[str] = set()
    completions: set[str] = set()
    kept = []
    for pair in pairs:
        prompt, completion = words_of(pair.prompt), words_of(pair.completion)
        usable = prompt and completion and len(pair.completion) <= LONGEST_COMPLETION_CHARACTERS
        if usable and prompt not in prompts and completion not in completions:
            prompts.add(prompt)
            completions.add(completion)
            kept.append(pair)
    return tuple(kept)


def split_held_out(pairs: tuple[Pair, ...], held_out_rows: int, seed: int) -> Split:
    """Shuffle pairs without repeats and keep ``held_out_rows`` of them back.

    Raises:
        BadDataError: there are not more pairs than rows to hold out.
    """
    if held_out_rows >= len(pairs):
        raise BadDataError(
            f"{len(pairs)} distinct pairs are too few to hold out {held_out_rows}",
            remedy="reinstall the package chatterbot-corpus",
        )
    shuffled = list(pairs)
    random.Random(seed).shuffle(shuffled)
    return Split(train=tuple(shuffled[held_out_rows:]), held_out=tuple(shuffled[:held_out_rows]))


def read_corpus(folder: Path) -> Iterator[Pair]:
    """The corpus's English conversations, two utterances at a time.

    Args:
        folder: the installed package chatterbot_corpus.

    Raises:
        BadDataError: a file is not YAML or is not laid out as a corpus.
    """
    import yaml

    for path in sorted((folder / "data" / "english").glob("*.yml")):
        try:
            conversations = yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]
            for utterances in conversations:
                yield from (
                    Pair(str(asked), str(said)) for asked, said in zip(utterances[::2], utterances[1::2], strict=False)
                )
        except (yaml.YAMLError, KeyError, TypeError) as error:
            raise BadDataError(
                f"{path.name} is not a conversation file: {error}", remedy="reinstall the package chatterbot-corpus"
            ) from error


def write_rows(pairs: Iterable[Pair], path: Path) -> None:
    """Write pairs as JSON lines of ``messages``: one question, one answer."""
    with path.open("w", encoding="utf-8") as file:
        for pair in pairs:
            messages = [
                {"role": "user", "content": pair.prompt},
                {"role": "assistant", "content": pair.completion},
            ]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
