"""The real core's part that begins where a run ends: merge, chat, export, and plans beside each other."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from vramplan.planner.adapters.cancelling import check_wanted
from vramplan.planner.plan import Plan
from vramplan.planner.units import format_bytes
from vramplan.tui.choice import Entry, SavedPlan

if TYPE_CHECKING:
    from vramplan.executor.chat_child import ChatChild
    from vramplan.executor.chat_session import Session
    from vramplan.executor.runs import PastRun

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
ENTRIES_SHOWN = 500


class LiveChat:
    """Satisfies ``vramplan.tui.core.Chat``; its child process ends with ``close``."""

    def __init__(self, folders: tuple[str, ...]) -> None:
        from vramplan.executor.chat_cli import open_chat
        from vramplan.executor.finished import finished_run

        self._stack = ExitStack()
        runs = [finished_run(folder) for folder in folders]
        opened: tuple[ChatChild, Session] = self._stack.enter_context(open_chat(runs, _narrate))
        self._child, self._session = opened

    @property
    def voices(self) -> tuple[str, ...]:
        return self._session.voices

    @property
    def voice(self) -> str:
        return self._session.name

    def use(self, voice: str) -> None:
        self._session.typed(f"/use {voice}")

    def clear(self) -> None:
        self._session.typed("/clear")

    def answer(self, prompt: str) -> Iterator[str]:
        from vramplan.executor.chat_wire import Answered, Ask

        text = ""
        ask = self._session.typed(f"/{prompt}" if prompt.startswith("/") else prompt)
        assert isinstance(ask, Ask)
        for said in self._child.answer(ask):
            if not isinstance(said, Answered):
                text += said
                yield said
        self._session.answered(text)

    def stop(self) -> None:
        self._child.stop()

    def close(self) -> None:
        self._stack.close()


class LiveFinished:
    """What ``vramplan.tui.core.Core`` asks of runs and plans that exist."""

    def runs(self) -> "tuple[tuple[PastRun, ...], tuple[str, ...]]":
        from vramplan.executor.runs import find_runs

        return find_runs()

    def demo(self) -> SavedPlan:
        from vramplan.executor.demo_assets import prepare_assets
        from vramplan.executor.demo_cli import DEFAULT_STEPS, device_to_use, free_folder, plan_words
        from vramplan.planner.adapters.plan_files import write_plan
        from vramplan.planner.cli.main import build_parser
        from vramplan.planner.cli.options import given_options
        from vramplan.planner.cli.plan import frozen
        from vramplan.planner.cli.subject import complete, look_up, price

        assets, path = prepare_assets(_narrate), free_folder(Path("runs"), "demo") / "plan.json"
        args = build_parser("plan").parse_all(plan_words(assets, device_to_use("auto"), DEFAULT_STEPS, path))
        subject = look_up(args)
        resolved = complete(subject, given_options(args))
        plan = frozen(subject, resolved, price(subject, resolved), path, output_given=True)
        write_plan(plan, path)
        return SavedPlan(path=str(path), plan=plan, tried_first=False)

    def read_plan(self, path: str) -> Plan:
        from vramplan.planner.adapters.plan_files import read_plan

        return read_plan(Path(path))

    def entries(self, folder: str, suffixes: tuple[str, ...]) -> tuple[Entry, ...]:
        try:
            found = sorted(Path(folder or ".").expanduser().iterdir(), key=lambda each: each.name.lower())
        except OSError:
            return ()
        seen = [each for each in found if not each.name.startswith(".")]
        folders = [Entry(name=f"{each.name}/", size="") for each in seen if each.is_dir()]
        files = [
            Entry(name=each.name, size=format_bytes(each.stat().st_size))
            for each in seen
            if each.suffix.lower() in suffixes and each.is_file()
        ]
        return (*files, *folders)[:ENTRIES_SHOWN]

    def merge(self, folder: str) -> str:
        from vramplan.executor.finished import finished_run
        from vramplan.executor.merge_cli import merge

        found = finished_run(folder)
        output = found.folder / "merged"
        merge(found, output, found.plan.setup.precision.dtype)
        return str(output)

    def next_stage(self, saved: SavedPlan) -> SavedPlan | None:
        from vramplan.executor.stages import begin_stage
        from vramplan.planner.adapters.plan_files import read_plan

        if not saved.plan.later_stages:
            return None
        path = begin_stage(saved.plan, Path(saved.path).parent, 2)
        return SavedPlan(path=str(path), plan=read_plan(path))

    def open_chat(self, folders: tuple[str, ...]) -> LiveChat:
        return LiveChat(folders)

    def engines(self) -> tuple[tuple[str, str], ...]:
        from vramplan.planner.export.engines import ENGINES

        return tuple((engine.name, engine.summary) for engine in ENGINES.values())

    def export(self, saved: SavedPlan, engine: str) -> tuple[str, ...]:
        from vramplan.planner.cli.export import at_absolute_paths, row_kind, write_files
        from vramplan.planner.export.engine import Source, export
        from vramplan.planner.export.engines import ENGINES

        chosen = ENGINES[engine]
        files = export(chosen, Source(at_absolute_paths(saved.plan), row_kind(saved.plan)))
        folder = Path(saved.path).with_name(f"export-{engine}")
        return tuple(str(path) for path in write_files(files, folder, overwrite=False))


def _narrate(text: str) -> None:
    check_wanted()
    sys.stderr.write(text + "\n")
