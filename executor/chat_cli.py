"""``vramplan chat RUN [RUN ...]``: one base, the adapters of several runs on it, switched between prompts."""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vramplan.executor.chat_child import ChatChild
from vramplan.executor.chat_session import Note, Session, inert
from vramplan.executor.chat_wire import Answered, Ask
from vramplan.executor.finished import FinishedRun, finished_run
from vramplan.executor.here import device_here
from vramplan.planner.adapters.devices import read_cpu
from vramplan.planner.cli.parsing import number, whole_number
from vramplan.planner.cli.render import tell
from vramplan.planner.errors import ExitCode, UnsupportedError, UsageError
from vramplan.planner.methods import quant_of

MAX_NEW_TOKENS = 256


def add_parser(subparsers: Any) -> None:
    """Add ``chat`` to the command line."""
    parser = subparsers.add_parser(
        "chat",
        help="ask one base with the adapters of several runs",
        description="Load a base once, put the adapters of runs on it and answer prompts, one a line. While chatting: "
        "/use NAME, /base, /clear, /names, /help, /quit.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folders, or names under runs/")
    parser.add_argument("--max-new-tokens", metavar="N", type=whole_number, default=MAX_NEW_TOKENS, help="256 without")
    parser.add_argument(
        "--temperature", metavar="T", type=number, default=0.0, help="0, the default: always the likeliest token"
    )
    parser.add_argument("--seed", metavar="N", type=whole_number, default=0, help="of the sampling (0)")
    parser.add_argument(
        "--template",
        action=argparse.BooleanOptionalAction,
        help="write prompts with the chat template; without: as the rows of the training file were",
    )
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto: the plan's kind, else the CPU")
    parser.add_argument("--json", action="store_true", help="print one JSON object an answer")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Load, then answer until there are no more lines.

    Raises:
        UsageError: no such run, or an option makes no sense.
        UnsupportedError: these runs cannot share one base, or do not answer in text.
        RunError: a run has not finished, or the model cannot be loaded.
    """
    if args.max_new_tokens < 1 or args.temperature < 0 or args.seed < 0:
        raise UsageError(
            "--max-new-tokens starts at 1, --temperature and --seed at 0", remedy="leave them out for the defaults"
        )
    found = [finished_run(text) for text in args.runs]
    options = {"max_new_tokens": args.max_new_tokens, "temperature": args.temperature, "seed": args.seed}
    with open_chat(found, tell, on_cpu=args.device == "cpu", template=args.template, **options) as (child, session):
        talk(child, session, as_json=args.json)
    return ExitCode.OK


@contextmanager
def open_chat(
    runs: list[FinishedRun],
    say: Callable[[str], None],
    *,
    on_cpu: bool = False,
    template: bool | None = None,
    **options: Any,
) -> Iterator[tuple[ChatChild, Session]]:
    """One base with the adapters of runs on it, loaded, and a conversation with them.

    Args:
        say: told of progress, and of what was loaded at the end.
        template: write prompts with the chat template; None: where there is one and the training rows were messages.
        options: of ``Session``.

    Raises:
        UnsupportedError: these runs cannot share one base, do not answer in text, or have no chat template.
        RunError: the model cannot be loaded.
    """
    check_together(runs)
    here = read_cpu() if on_cpu else device_here(runs[0].plan)
    device = here if here is not None and here.kind in ("cuda", "cpu") else read_cpu()
    with ChatChild(runs, device, say) as child:
        ready = child.wait_until_ready()
        if template is None:
            template = ready.has_template and trained_on_messages(runs[0])
        if template and not ready.has_template:
            raise UnsupportedError("the tokenizer of these runs has no chat template", remedy="chat with --no-template")
        session = Session(names_of(runs), template=template, has_base=not runs[0].whole, **options)
        say(f"ready on {ready.device}: {', '.join(session.names)}; prompts are sent {_words(template)}; /help")
        yield child, session


def talk(child: ChatChild, session: Session, *, as_json: bool) -> None:
    """Read lines from stdin, answer each on stdout."""
    while (line := _line(session)) is not None:
        wanted = session.typed(line)
        if wanted == "quit":
            return
        if isinstance(wanted, Note):
            sys.stderr.write(wanted.text + "\n")
        elif isinstance(wanted, Ask) and wanted.turns[-1].content.strip():
            _answer(child, session, wanted, as_json=as_json)


def _answer(child: ChatChild, session: Session, ask: Ask, *, as_json: bool) -> None:
    text, took = "", None
    with _ctrl_c_stops(child):
        for said in child.answer(ask):
            if isinstance(said, Answered):
                took = said
                continue
            text += said
            if not as_json:
                sys.stdout.write(inert(said))
                sys.stdout.flush()
    assert took is not None
    session.answered(text)
    if as_json:
        facts = {"run": session.name, "prompt": ask.turns[-1].content, "answer": text}
        sys.stdout.write(json.dumps(facts | took.model_dump(exclude={"event"})) + "\n")
    else:
        sys.stdout.write("\n")
        tell(f"{took.new_tokens} tokens in {took.seconds:.1f} s" + (", stopped" if took.stopped else ""))
    sys.stdout.flush()


def _line(session: Session) -> str | None:
    """The next line; None at the end."""
    if sys.stdin.isatty():
        sys.stderr.write(f"\n{inert(session.name)}> ")
        sys.stderr.flush()
    return sys.stdin.readline() or None


@contextmanager
def _ctrl_c_stops(child: ChatChild) -> Iterator[None]:
    """Ctrl-C cuts the answer short and the chat goes on."""
    before = signal.signal(signal.SIGINT, lambda caught, frame: child.stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def check_together(runs: list[FinishedRun]) -> None:
    """Every run's adapter fits on the one base that is loaded, as it was trained on it.

    Raises:
        UnsupportedError: naming the two runs and what differs.
    """
    first = runs[0]
    for run in runs:
        task = run.plan.workload.task
        if task == "classification":
            raise UnsupportedError(
                f"{run.name} classifies: it does not answer in text", remedy=f"vramplan evaluate {run.folder}"
            )
        if run.whole and len(runs) > 1:
            raise UnsupportedError(
                f"{run.name} trained the model's own weights: it shares no base with another run",
                remedy=f"chat with it alone: vramplan chat {run.folder}",
            )
        for what, mine, theirs in _shared(first, run):
            if mine != theirs:
                raise UnsupportedError(
                    f"one base cannot carry both: {first.name} has {what} {mine}, {run.name} {theirs}",
                    remedy="chat with them one after the other",
                )


def _shared(first: FinishedRun, other: FinishedRun) -> list[tuple[str, Any, Any]]:
    """What runs on one base must have in common, and each one's."""

    def facts(run: FinishedRun) -> list[tuple[str, Any]]:
        model, setup = run.plan.model, run.plan.setup
        family = "lora" if setup.method.kind == "qlora" else setup.method.kind
        return [
            ("base", model.path or f"{model.repo_id} at {model.revision}"),
            ("config", model.config_sha256[:12]),
            ("task", run.plan.workload.task),
            ("method", family),
            ("a base in", quant_of(setup.method) or setup.precision.dtype),
            ("double quantisation", getattr(setup.method, "double_quant", None)),
            ("base precision", setup.precision.dtype),
        ]

    return [(what, mine, theirs) for (what, mine), (_, theirs) in zip(facts(first), facts(other), strict=True)]


def names_of(runs: list[FinishedRun]) -> tuple[str, ...]:
    """The runs' names, told apart where two are the same."""
    names: list[str] = []
    for run in runs:
        name, count = run.name, 1
        while name in (*names, "base"):
            count += 1
            name = f"{run.name}-{count}"
        names.append(name)
    return tuple(names)


def trained_on_messages(run: FinishedRun) -> bool:
    """The training file's first row is a conversation; where the file is gone, a chat template is the better guess."""
    path = run.plan.data.path if run.plan.data is not None else run.plan.recipe.data
    try:
        with Path(path or "").open(encoding="utf-8-sig") as file:
            row = json.loads(next((line for line in file if line.strip()), "{}"))
    except (OSError, ValueError):
        return True
    return isinstance(row, dict) and "messages" in row


def _words(template: bool) -> str:
    return "as turns of a conversation" if template else "as they are"
