"""Time what a person waits for: cold starts of the command, and the parts of one estimate, in one run on one machine.

    python benchmarks/speed.py

Writes results/speed.json and the table in README.md. Each figure is the median of several runs; processor time stands
beside wall time because a machine may be shared; the ratios are of processor times. Cold starts find their bytecode
written, as after an installation. Allocated peaks are of setups that all differ, and none is asked for twice.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tables import table, write_between

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "speed.json"
ESTIMATE = ["meta-llama/Llama-3.1-8B", "--method", "qlora", "--sequence-length", "2048", "--device", "RTX 4090"]
COMMAND = ["-c", "import sys; from vramplan.tui.cli import main; sys.exit(main(sys.argv[1:]))"]
"""What the console script does."""
COLD: dict[str, list[str]] = {
    "python -c pass": ["-c", "pass"],
    "import pydantic": ["-c", "import pydantic; pydantic.BaseModel"],
    "vramplan --help": [*COMMAND, "--help"],
    "vramplan estimate --json": [*COMMAND, "estimate", *ESTIMATE, "--json"],
    "vramplan recommend --json": [*COMMAND, "recommend", ESTIMATE[0], "--device", "RTX 4090", "--json"],
}
SEARCH = "recommend: the best of about 3,000 setups, and the front"
ALL_PEAKS = "allocated peaks of 2000 setups, all different"
PEAKS = 2000
"""Setups in one measurement of allocated peaks: micro batch, sequence length and rank drawn anew for each."""


class Timing(NamedTuple):
    """Seconds of one run."""

    wall_seconds: float
    cpu_seconds: float


def time_process(
    arguments: list[str],
    bytecode: str,
    *,
    interpreter: str = sys.executable,
    environment: Mapping[str, str] = os.environ,
    check: bool = True,
) -> Timing:
    """One cold python process, to its end; ``bytecode``: a folder for what it compiles."""
    environment = {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = bytecode
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([interpreter, "-P", *arguments], check=check, capture_output=True, env=environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Timing(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def cold_starts(runs: int) -> dict[str, Timing]:
    """Every cold start, the kinds in turn so that a busy moment does not hit one of them alone."""
    found: dict[str, list[Timing]] = {name: [] for name in COLD}
    with tempfile.TemporaryDirectory() as bytecode:
        for arguments in COLD.values():
            time_process(arguments, bytecode)
        for _ in range(runs):
            for name, arguments in COLD.items():
                found[name].append(time_process(arguments, bytecode))
    return {name: middle(timings) for name, timings in found.items()}


def time_call(call: Callable[[], Any]) -> Timing:
    """One call in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def middle(timings: list[Timing]) -> Timing:
    """The median of each."""
    return Timing(median(t.wall_seconds for t in timings), median(t.cpu_seconds for t in timings))


def calls() -> dict[str, Callable[[], Any]]:
    """The parts of one estimate, warm."""
    from vramplan.planner.adapters.programs import find_program
    from vramplan.planner.cli import subject as subjects
    from vramplan.planner.cli.main import build_parser
    from vramplan.planner.cli.options import given_options
    from vramplan.planner.memory.peaks import AllocatedPeaks
    from vramplan.planner.memory.price import Pricing, Question
    from vramplan.planner.memory.replay import Replay
    from vramplan.planner.recommend import recommend

    args = build_parser("estimate").parse_all(["estimate", *ESTIMATE])
    subject = subjects.look_up(args)
    resolved = subjects.complete(subject, given_options(args))
    model, workload, setup = subject.model, resolved.workload, resolved.setup
    key = subjects.key_of(subject, resolved)
    program = find_program(key).program
    question = Question(model, workload, setup, "cuda", subject.device)
    pricing = Pricing(question, program)
    peaks = AllocatedPeaks(question, program)
    draw = random.Random(0)

    def many_peaks() -> None:
        for _ in range(PEAKS):
            peaks.at(1, draw.randint(2, 32768), draw.randint(1, 256))

    def best_of_all() -> None:
        recommend(
            model,
            subject.device,
            {},
            lambda resolved: subjects.price(subject, resolved, with_tensors=False),
            bounds=subjects.bounds_of(subject, {}),
        )

    return {
        SEARCH: best_of_all,
        "estimate, tensors at the peak named": lambda: subjects.price(subject, resolved),
        "estimate": lambda: subjects.price(subject, resolved, with_tensors=False),
        "estimate, only asked whether it fits": lambda: subjects.price(
            subject, resolved, with_tensors=False, searching=True
        ),
        "allocator replayed (reserved)": lambda: pricing.budget(with_tensors=False),
        "every phase's lines, allocator not replayed": lambda: pricing.budget(with_tensors=False, with_allocator=False),
        "program compiled for a stack": lambda: AllocatedPeaks(question, program),
        "program replayed (allocated peak, by component)": lambda: Replay(program, pricing.replay.at).run(),
        ALL_PEAKS: many_peaks,
    }


def measure(runs: int) -> dict[str, Any]:
    """Every figure, with the machine's facts."""
    cold = cold_starts(runs)
    warm = {}
    for name, call in calls().items():
        call()
        warm[name] = middle([time_call(call) for _ in range(runs)])
    return {
        "machine": {
            "cores": os.cpu_count(),
            "usable_cores": len(os.sched_getaffinity(0)),
            "architecture": platform.machine(),
            "python": platform.python_version(),
            "load_average": round(os.getloadavg()[0], 2),
        },
        "estimate": ESTIMATE,
        "runs": runs,
        "cold": {name: _rounded(timing) for name, timing in cold.items()},
        "warm": {name: _rounded(timing) for name, timing in warm.items()},
    }


def _rounded(timing: Timing) -> dict[str, float]:
    return {name: round(seconds, 5) for name, seconds in timing._asdict().items()}


def markdown(result: dict[str, Any]) -> str:
    """The table of README.md."""
    machine = result["machine"]
    pydantic = result["cold"]["import pydantic"]["cpu_seconds"]
    replay = result["warm"]["program replayed (allocated peak, by component)"]["cpu_seconds"]
    a_second = PEAKS / result["warm"][ALL_PEAKS]["cpu_seconds"]
    rows = []
    for kind, base in (("cold", pydantic), ("warm", replay)):
        for name, seconds in result[kind].items():
            ratio = f"{seconds['cpu_seconds'] / base:.1f}"
            figures = [f"{1000 * seconds[key]:.1f} ms" for key in ("wall_seconds", "cpu_seconds")]
            rows.append([name if kind == "warm" else f"cold: `{name}`", *figures, ratio])
    facts = (
        f"Medians of {result['runs']} runs; Python {machine['python']}, {machine['architecture']}, "
        f"{machine['usable_cores']} usable core(s), load {machine['load_average']} (shared: trust processor time). "
        f"`vramplan estimate {' '.join(result['estimate'])}`. Allocated peaks: {a_second:,.0f} a second on one core."
    )
    head = ["what", "wall", "processor", "ratio"]
    return f"{facts}\n\n{table(head, rows, 'lrrr')}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time cold starts and the parts of an estimate.")
    parser.add_argument("--runs", type=int, default=5)
    result = measure(parser.parse_args().runs)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    write_between(HERE / "README.md", "speed", markdown(result))


if __name__ == "__main__":
    main()
