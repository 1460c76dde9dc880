"""The app's chat on the real core: two adapters trained to answer differently, on one base, switched by a key."""

from pathlib import Path

import pytest
from textual.widgets import Input

from tests.executor.factories import QUESTIONS, make_tiny_llama, pin, write_jsonl, write_run
from tests.executor.finished_runs import plan_of
from tests.tui.driving import Driver, driving, screen_text
from vramplan.executor.events import Finished
from vramplan.executor.launcher import Run
from vramplan.planner.methods import Lora

pytestmark = pytest.mark.train

WORDS = {"amber": "amber and nothing else.", "violet": "violet, only violet."}
PROMPT = "what comes after 3?"


def trained(folder: Path, model: Path, answer: str) -> None:
    """A run that has learned to answer every question so."""
    folder.mkdir(parents=True)
    rows = write_jsonl(folder / "train.jsonl", [{"prompt": each, "completion": answer} for each in QUESTIONS])
    plan = plan_of(folder, model, Lora(r=8), data=pin(rows), max_steps=60)
    assert isinstance(list(Run(write_run(plan, folder)).events())[-1], Finished)


async def answer_to(driver: Driver, voice: str) -> str:
    """What the voice says to the prompt, once it has said it all."""
    prompt = driver.app.screen.query_one("#prompt", Input)
    await driver.press("slash")
    await driver.type(PROMPT)
    await driver.press("enter", until=lambda: not prompt.value)
    await driver.wait(lambda: not any(each.group == "answer" for each in driver.app.workers))
    await driver.press("escape")
    text = screen_text(driver.app)
    assert f"‹{voice}›" in text
    return text[text.index(PROMPT) :]


async def test_two_trained_adapters_answer_in_turn_and_the_base_answers_as_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from vramplan.tui.live_core import LiveCore

    model = make_tiny_llama(tmp_path / "tiny")
    for name, answer in WORDS.items():
        trained(tmp_path / "runs" / name, model, answer)
    monkeypatch.chdir(tmp_path)
    async with driving(LiveCore(), (120, 40), patience_seconds=300.0) as driver:
        await driver.press("8", until="violet")
        await driver.press("space", "j", "space", "c", until="ready")
        await driver.press("escape")
        heard = {}
        for _ in range(4):
            voice = driver.app.screen._chat.voice  # type: ignore[attr-defined]
            heard.setdefault(voice, []).append(await answer_to(driver, voice))
            await driver.press("n", until="the conversation begins anew")
    assert set(heard) == {*WORDS, "base"}
    for name, answer in WORDS.items():
        assert all(answer in text for text in heard[name])
    assert not any(word in heard["base"][0] for word in WORDS)
