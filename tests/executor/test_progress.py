"""Narration: one line a step that is rewritten on a terminal, and nothing that a name could smuggle in."""

from vramplan.executor.events import Failed, Saved, Step, Warned
from vramplan.executor.progress import Narrator, describe

STEP = Step(
    time=0.0, step=3, max_steps=60, loss=2.14567, tokens_per_second=512.3, eta_seconds=75.2, process_bytes=3 * 2**30
)


def test_a_step_is_one_line() -> None:
    assert describe(STEP) == "step 3/60 · loss 2.1457 · 512 tokens/s · 3.00 GiB in use · 0:01:15 left"


def test_on_a_terminal_steps_overwrite_one_another_and_other_news_does_not() -> None:
    written: list[str] = []
    narrator = Narrator(written.append, live=True, width=40)
    narrator.tell(STEP)
    narrator.tell(Step(time=0.0, step=4, max_steps=60))
    narrator.tell(Warned(time=0.0, message="hot"))
    assert "".join(written) == (
        "\rstep 3/60 · loss 2.1457 · 512 tokens/s " + "\r" + "step 4/60".ljust(39) + "\nwarning: hot\n"
    )


def test_elsewhere_every_line_ends() -> None:
    written: list[str] = []
    narrator = Narrator(written.append, live=False, width=40)
    narrator.tell(STEP)
    narrator.close()
    assert written == ["step 3/60 · loss 2.1457 · 512 tokens/s · 3.00 GiB in use · 0:01:15 left\n"]


def test_escapes_are_written_out() -> None:
    assert "\x1b" not in str(describe(Saved(time=0.0, step=1, path="a\x1b[2J", size_bytes=1)))
    failed = describe(Failed(time=0.0, message="a\x1b[2J", remedy="b\x1b[2J", interrupted=True))
    assert failed == "a\\x1b[2J\n  b\\x1b[2J"
