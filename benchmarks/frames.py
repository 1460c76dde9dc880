"""The app in a real terminal, from its first screen to the report of a run: each screen kept as text.

    python benchmarks/frames.py FOLDER

Starts ``vramplan`` in a tmux of its own, 120 columns by 40 lines, in FOLDER (its path is on the screens), types what a
person would, and writes what the terminal shows to docs/frames/ and into docs/walkthrough.md. The model and the text
are the demo's; they are put into FOLDER and taken away again, as is the run. On the first device here: some minutes on
two idle processor cores. Needs tmux and the packages of ``vramplan demo``.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tables import write_between

from vramplan.executor.demo_assets import prepare_assets

DOCS = Path(__file__).parents[1] / "docs"
FRAMES, PAGE = DOCS / "frames", DOCS / "walkthrough.md"
COLUMNS, LINES = 120, 40
MODEL, DATA, STEPS = "smollm2-135m-instruct", "train.jsonl", "24"
ROW_CHARACTERS = 240
PATIENCE_SECONDS = 1800.0
"""Only how long a broken app holds this up."""
SETTLED_SECONDS = 1.0


class Terminal:
    """A tmux server of its own with the app in it."""

    def __init__(self, folder: Path, settings: Path) -> None:
        self._number = 0
        command = Path(sys.executable).with_name("vramplan")
        self._tmux = ("tmux", "-L", f"frames-{os.getpid()}", "-f", os.devnull)
        environment = ("-e", f"XDG_CONFIG_HOME={settings}", "-e", "COLORTERM=truecolor")
        size = ("-x", str(COLUMNS), "-y", str(LINES))
        self._run("new-session", "-d", *size, "-c", str(folder), *environment, shlex.quote(str(command)))

    def press(self, *keys: str, until: str) -> None:
        """Press keys by tmux's names, and wait for a text."""
        self._run("send-keys", *keys)
        self.wait(until)

    def write(self, text: str) -> None:
        """Type a text."""
        self._run("send-keys", "-l", text)

    def wait(self, until: str) -> None:
        """Wait until the terminal shows a text and then stands still.

        Raises:
            TimeoutError: it never does.
        """
        began, before = time.monotonic(), ""
        while until not in before or before != self._screen():
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise TimeoutError(f"never shown: {until!r}\n{before}")
            before = self._screen()
            time.sleep(SETTLED_SECONDS)

    def wait_for_steps(self, step: str) -> None:
        """Wait for a step of a run, which never stands still."""
        while step not in self._screen():
            time.sleep(0.2)

    def take(self, name: str) -> None:
        """Keep what the terminal shows as the next frame."""
        self._number += 1
        screen = self._screen()
        (FRAMES / f"{self._number}-{name}.txt").write_text(screen, encoding="utf-8")
        write_between(PAGE, name, f"```text\n{screen}```")

    def close(self) -> None:
        """End the app and the server."""
        self._run("kill-server")

    def _screen(self) -> str:
        return "\n".join(line.rstrip() for line in self._run("capture-pane", "-p").splitlines()).rstrip() + "\n"

    def _run(self, *words: str) -> str:
        return subprocess.run([*self._tmux, *words], check=True, capture_output=True, encoding="utf-8").stdout


def walk(terminal: Terminal) -> None:
    """From nothing to the report of a finished run."""
    terminal.wait("What this card can tune")
    terminal.press("d", until="GB/s")
    terminal.wait(" here: ")
    terminal.take("hardware")
    terminal.press("Enter", until="a model's name, a folder, or a Hub id")
    terminal.press("/", until="a model's name")
    terminal.write(f"./{MODEL}")
    terminal.press("Enter", until="headroom")
    terminal.take("budget")
    terminal.press("3", until="no training file")
    terminal.press("f", until="training file (empty")
    terminal.write(DATA)
    terminal.press("Enter", until="up to ")
    for downs, value in ((0, "64"), (1, "4"), (2, STEPS), (2, "256")):
        terminal.press(*["j"] * downs, "Enter", until="(empty")
        terminal.write(value)
        terminal.press("Enter", until=f"{value} ")
    terminal.take("workload")
    terminal.press("5", until="qlora ")
    terminal.take("compare")
    terminal.press("6", until="not saved yet")
    terminal.press("s", until="written: ")
    terminal.take("plan")
    terminal.press("r", until=" now?")
    terminal.take("preflight")
    terminal.write("y")
    terminal.wait_for_steps(f"step {int(STEPS) // 2} of {STEPS}")
    terminal.take("run")
    terminal.wait("done: ")
    terminal.take("done")
    terminal.press("8", until="measured by")
    terminal.take("runs")


def short_rows(path: Path) -> list[str]:
    """Rows of about a length, so that the longest, which come first, are rows like the others."""
    return [row for row in path.read_text(encoding="utf-8").splitlines(keepends=True) if len(row) <= ROW_CHARACTERS]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="where the app is started")
    folder: Path = parser.parse_args().folder
    assets = prepare_assets(sys.stderr.write)
    made = [folder / MODEL, folder / DATA, folder / "runs"]
    if taken := [str(path) for path in made if path.exists()]:
        parser.error(f"in the way: {', '.join(taken)}")
    shutil.rmtree(FRAMES, ignore_errors=True)
    FRAMES.mkdir()
    with tempfile.TemporaryDirectory() as settings:
        shutil.copytree(assets.model, folder / MODEL)
        (folder / DATA).write_text("".join(short_rows(assets.train)), encoding="utf-8")
        terminal = Terminal(folder, Path(settings))
        try:
            walk(terminal)
        finally:
            terminal.close()
            for path in made:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
