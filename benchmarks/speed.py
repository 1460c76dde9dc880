"""Time what a person waits for: cold starts of the command, and the parts of one estimate, in one run on one machine.

    python benchmarks/speed.py

Writes results/speed.json and the table in README.md. Each figure is the median of several runs; processor time stands
beside wall time because a machine may be shared; the ratios are of processor times.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
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
}


class Timing(NamedTuple):
    """Seconds of one run."""

    wall_seconds: float
    cpu_seconds: float


def time_process(arguments: list[str]) -> Timing:
    """One cold python process, to its end."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-P", *arguments], check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Timing(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


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
    from vramplan.planner.memory import outside
    from vramplan.planner.memory.optimizer import step_temporaries
    from vramplan.planner.memory.price import Pricing, Question
    from vramplan.planner.memory.replay import Replay
    from vramplan.planner.memory.reserved import reserved_bytes
    from vramplan.planner.memory.structure import program_key

    args = build_parser("estimate").parse_all(["estimate", *ESTIMATE])
    subject = subjects.look_up(args)
    resolved = subjects.complete(subject, given_options(args))
    model, workload, setup = subject.model, resolved.workload, resolved.setup
    program = find_program(program_key(model, workload, setup, "cuda")).program
    pricing = Pricing(Question(model, workload, setup, "cuda", subject.device), program)
    static = pricing.static

    def allocator_replay() -> int:
        return reserved_bytes(
            pricing.replay,
            before=[
                *static.weights, *static.quantization_state, *static.adapter, *pricing.buffers, *pricing.batch
            ],
            optimizer=pricing.states,
            gradients=static.trainable,
            step_temporaries=step_temporaries(setup.optimizer, static.trainable),
            workspace_bytes=outside.workspace_bytes(subject.device),
            alloc_conf=setup.alloc_conf,
        )  # fmt: skip

    return {
        "estimate, tensors at the peak named": lambda: subjects.price(subject, resolved),
        "estimate": lambda: subjects.price(subject, resolved, with_tensors=False),
        "allocator replayed (reserved)": allocator_replay,
        "program replayed (allocated peak)": lambda: Replay(program, pricing.replay.at).run(),
    }


def measure(runs: int) -> dict[str, Any]:
    """Every figure, with the machine's facts."""
    cold = {name: middle([time_process(arguments) for _ in range(runs)]) for name, arguments in COLD.items()}
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
    replay = result["warm"]["program replayed (allocated peak)"]["cpu_seconds"]
    rows = []
    for kind, base in (("cold", pydantic), ("warm", replay)):
        for name, seconds in result[kind].items():
            ratio = f"{seconds['cpu_seconds'] / base:.1f}"
            figures = [f"{1000 * seconds[key]:.1f} ms" for key in ("wall_seconds", "cpu_seconds")]
            rows.append([name if kind == "warm" else f"cold: `{name}`", *figures, ratio])
    facts = (
        f"Medians of {result['runs']} runs; Python {machine['python']}, {machine['architecture']}, "
        f"{machine['usable_cores']} usable core(s), load {machine['load_average']} (shared: trust processor time). "
        f"`vramplan estimate {' '.join(result['estimate'])}`."
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
