"""Other planners of fine-tuning beside this one, in one run on one machine, without a network.

    python benchmarks/peers.py

Each is installed from the package index into an environment of its own that is thrown away, and asked as its users ask
it: by its command for figures and cold starts, by its documented functions for the time of one answer in a running
process. A cache of the Hub with the models' config.json stands in for one earlier use with a network. All four are
under the MIT licence. Writes results/peers.json and peers.md; nothing is fitted to a row, here or there.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from peers_asked import ASKED, FEATURES, Peer, Setup, Unasked, setup_of
from peers_tables import page
from published import _rows, load_cases, predicted, price
from speed import COMMAND, SEARCH, calls, middle, time_call, time_process

from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.main import build_parser
from vramplan.planner.cli.options import given_options
from vramplan.planner.errors import VramplanError

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "peers.json", HERE / "peers.md"
OURS = "vramplan"
MODEL, DEVICE = "meta-llama/Llama-3.1-8B", "RTX 4090"
ESTIMATE = [MODEL, "--method", "lora", "--rank", "16", "--sequence-length", "2048", "--device", DEVICE]
"""What is asked for the times: by the others as near as they can say it."""
REVISION = "0" * 40
SECONDS = 120
"""No answer takes this long."""


def install(folder: Path) -> Path:
    """An environment with every peer; its python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    wanted = [f"{peer.package}=={peer.version}" for peer in ASKED]
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted], check=True)
    return python


def seed_cache(folder: Path, models: set[str]) -> None:
    """A Hub cache that holds the configs alone."""
    for model in models:
        place = folder / "hub" / f"models--{model.replace('/', '--')}"
        snapshot = place / "snapshots" / REVISION
        snapshot.mkdir(parents=True, exist_ok=True)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text(REVISION)
        (snapshot / "config.json").write_text(json.dumps(resolve_model(model).config))


def offline(home: Path) -> dict[str, str]:
    """An environment in which nothing is looked up."""
    mute = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "200", "PYTHONUTF8": "1"}
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | mute


def ask(python: Path, peer: Peer, arguments: list[str], environment: dict[str, str]) -> str:
    """What the peer's command prints.

    Raises:
        Unasked: it gives no answer; its last words say why.
    """
    command = [str(python.with_name(peer.command)), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=SECONDS, check=False, stdin=subprocess.DEVNULL
    )
    if done.stdout.lstrip().startswith("{"):  # a verdict may be in the exit code
        return done.stdout
    words = " ".join((done.stderr or done.stdout).split())
    raise Unasked(f"it answers: {words.partition('. ')[0][:120]}")


def rows(python: Path, environment: dict[str, str]) -> list[dict[str, Any]]:
    """Every published case: what was measured, and everyone's figure or the reason for having none."""
    out = []
    for case in load_cases():
        setup = setup_of(case)
        row: dict[str, Any] = {
            "id": case["id"],
            "repository": case["source"]["repository"],
            "metric": setup.metric,
            "measured_bytes": case["measured"]["bytes"],
            "predicted_bytes": {},
            "unasked": {},
        }
        for peer in ASKED:
            try:
                answer = json.loads(ask(python, peer, peer.arguments(setup), environment))
                row["predicted_bytes"][peer.package] = peer.read(answer, setup.metric)
            except Unasked as reason:
                row["unasked"][peer.package] = str(reason)
        if row["predicted_bytes"]:
            try:
                row["predicted_bytes"][OURS] = predicted(price(*case["command"], rows=_rows(case)))[setup.metric]
            except VramplanError as error:
                row["unasked"][OURS] = str(error.message)
        out.append(row)
        print(case["id"], *(f"{name} {size / 2**30:.2f}" for name, size in row["predicted_bytes"].items()), flush=True)
    return out


def cold_starts(python: Path, environment: dict[str, str], runs: int) -> dict[str, dict[str, float]]:
    """Seconds of processor and wall time of one estimate by command, everyone in turn."""
    setup = Setup(MODEL, "lora", 16, None, 2048, 1, True, "adamw_torch", "sdpa", True, 24, "process")
    commands = {
        peer.package: [str(python), str(python.with_name(peer.command)), *peer.arguments(setup)] for peer in ASKED
    }
    commands[OURS] = [sys.executable, *COMMAND, "estimate", *ESTIMATE, "--json"]
    return _in_turn(commands, environment, runs)


def recommendations(python: Path, environment: dict[str, str], runs: int) -> dict[str, dict[str, float]]:
    """The same of the question which setup to take."""
    commands = {
        peer.package: [str(python), str(python.with_name(peer.command)), *peer.which]
        for peer in ASKED
        if peer.which is not None
    }
    commands[OURS] = [sys.executable, *COMMAND, "recommend", MODEL, "--device", DEVICE, "--json"]
    return _in_turn(commands, environment, runs)


def search(runs: int) -> dict[str, float]:
    """Our recommendation alone, in a running process that has answered it before."""
    call = calls()[SEARCH]
    call()
    return {
        name: round(seconds, 4) for name, seconds in middle([time_call(call) for _ in range(runs)])._asdict().items()
    }


def _in_turn(commands: dict[str, list[str]], environment: dict[str, str], runs: int) -> dict[str, dict[str, float]]:
    found: dict[str, list[Any]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as bytecode:
        for number in range(runs + 1):  # the first writes the bytecode
            for name, (interpreter, *arguments) in commands.items():
                asked = os.environ if name == OURS else environment
                timing = time_process(arguments, bytecode, interpreter=interpreter, environment=asked, check=False)
                if number:
                    found[name].append(timing)
    return {
        name: {
            "wall_seconds": round(median(each.wall_seconds for each in timings), 4),
            "cpu_seconds": round(median(each.cpu_seconds for each in timings), 4),
        }
        for name, timings in found.items()
    }


def answers_a_second(python: Path, environment: dict[str, str]) -> dict[str, float]:
    """Estimates a second of processor time, in a running process, no two alike."""
    found = {
        peer.package: float(
            subprocess.run(
                [str(python), "-c", peer.many], capture_output=True, text=True, env=environment, check=True
            ).stdout.split()[-1]
        )
        for peer in ASKED
    }
    return found | {OURS: _ours_a_second(_priced), f"{OURS}, allocated peaks": _ours_a_second(_peaks)}


def _ours_a_second(make: Callable[[], tuple[int, Callable[[int], Any]]]) -> float:
    number, call = make()
    call(1)
    start = time.process_time()
    for index in range(number):
        call(index)
    return number / (time.process_time() - start)


def _priced() -> tuple[int, Callable[[int], Any]]:
    args = build_parser("estimate").parse_all(["estimate", *ESTIMATE])
    subject, given = subjects.look_up(args), given_options(args)

    def call(index: int) -> Any:
        resolved = subjects.complete(subject, given | {"sequence_length": 1024 + 8 * index})
        return subjects.price(subject, resolved, with_tensors=False)

    return 10, call


def _peaks() -> tuple[int, Callable[[int], Any]]:
    from pricings import pricing_of

    from vramplan.planner.memory.peaks import AllocatedPeaks

    pricing = pricing_of(*ESTIMATE)
    peaks = AllocatedPeaks(pricing.question, pricing.replay.program)
    return 1000, lambda index: peaks.at(1, 1024 + 8 * index, 16)


def features(python: Path, environment: dict[str, str]) -> dict[str, list[str]]:
    """Which peers' own help has the words of a feature."""
    texts: dict[tuple[str, ...], str] = {}

    def help_of(peer: Peer, arguments: tuple[str, ...]) -> str:
        key = (peer.package, *arguments)
        if key not in texts:
            command = [str(python.with_name(peer.command)), *arguments, "--help"]
            texts[key] = subprocess.run(
                command, capture_output=True, text=True, env=environment, check=False, stdin=subprocess.DEVNULL
            ).stdout
        return texts[key]

    by_name = {peer.package: peer for peer in ASKED}
    found = {}
    for feature, proofs in FEATURES.items():
        has = [name for name, (arguments, words) in proofs.items() if words in help_of(by_name[name], arguments)]
        missing = set(proofs) - set(has)
        if missing:
            raise SystemExit(f"{feature}: the help of {', '.join(sorted(missing))} does not have those words any more")
        found[feature] = has
    return found


def measure(python: Path, runs: int) -> dict[str, Any]:
    """Everything, with the machine's facts."""
    with tempfile.TemporaryDirectory() as home:
        environment = offline(Path(home))
        seed_cache(Path(home), {case["command"][0] for case in load_cases()} | {MODEL})
        return {
            "machine": {
                "architecture": platform.machine(),
                "python": platform.python_version(),
                "load_average": round(os.getloadavg()[0], 2),
            },
            "peers": {
                peer.package: {"version": peer.version, "licence": "MIT", "figure": peer.figure} for peer in ASKED
            },
            "runs": runs,
            "asked": ESTIMATE,
            "features": features(python, environment),
            "cold": cold_starts(python, environment, runs),
            "which": recommendations(python, environment, runs),
            "search": search(runs),
            "what_which_is": {peer.package: peer.what_which_is for peer in ASKED},
            "a_second": {name: round(rate, 1) for name, rate in answers_a_second(python, environment).items()},
            "rows": rows(python, environment),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask other planners what they are asked here.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--python", type=Path, help="of an environment that has the peers already")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args.python or install(Path(folder)), args.runs)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.write_text(page(result))


if __name__ == "__main__":
    main()
