"""Kill a run without warning, go on from its last checkpoint, and compare with a run nobody touched.

    python -m benchmarks.faults [--kills 20] [--seed 0]

Each kill is SIGKILL at a random moment of a random step. The losses of the resumed run and the bytes of its weights
must be those of the uninterrupted run, and at most the steps since the last checkpoint may be lost. A tiny random Llama
on the CPU; about 25 seconds a kill. Writes ``results/faults.json``.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from tests.executor.factories import make_plan, make_setup, make_tiny_llama, pin, prompt_completion_rows, write_jsonl
from vramplan.executor.events import Event, Finished, Started, Step
from vramplan.executor.launcher import Run
from vramplan.executor.packages import installed_packages
from vramplan.planner.adapters.plan_files import read_report
from vramplan.planner.methods import Lora

OUT = Path(__file__).parent / "results" / "faults.json"
STEPS = 12
SAVE_STEPS = 3


class Outcome(NamedTuple):
    """What a run left: its losses by step, and the hash of its weights."""

    losses: tuple[tuple[int, float], ...]
    weights_sha256: str


class Killed(NamedTuple):
    """One kill and what came of it."""

    step: int
    resumed_from: int
    outcome: Outcome


def make_world(folder: Path) -> dict[str, Any]:
    """A model and a training file, as ``make_plan`` takes them."""
    data = write_jsonl(folder / "train.jsonl", prompt_completion_rows())
    return {"model_path": make_tiny_llama(folder / "model"), "data": pin(data)}


def plan_in(folder: Path, world: dict[str, Any], *, dropout: float = 0.1, **recipe: Any) -> Path:
    """A run folder with a plan whose result depends on every random number, unless dropout is off."""
    setup = make_setup(Lora(r=8, lora_dropout=dropout), gradient_accumulation_steps=2, micro_batch_size=2)
    folder.mkdir(parents=True)
    plan = make_plan(folder, setup=setup, **({"max_steps": STEPS, "save_steps": SAVE_STEPS} | recipe), **world)
    from vramplan.planner.adapters.plan_files import write_plan

    write_plan(plan, folder / "plan.json")
    return folder / "plan.json"


def undisturbed(plan_path: Path) -> Outcome:
    """The run nobody touches."""
    _must_finish(list(Run(plan_path).events()))
    return outcome_of(plan_path)


def killed(plan_path: Path, step: int, delay_seconds: float) -> Killed:
    """Kill the worker this long after a step has been reported, then go on to the end."""
    pid = 0
    for event in Run(plan_path).events():
        if isinstance(event, Started):
            pid = event.pid
        if isinstance(event, Step) and event.step == step:
            time.sleep(delay_seconds)
            os.kill(pid, signal.SIGKILL)
    _must_finish(list(Run(plan_path, resume=True).events()))
    report = read_report(plan_path.parent / "report.json")
    assert report.resumed_from_step is not None
    return Killed(step, report.resumed_from_step, outcome_of(plan_path))


def outcome_of(plan_path: Path) -> Outcome:
    """The losses of the report beside a plan, and the hash of the adapter it left."""
    report = read_report(plan_path.parent / "report.json")
    weights = (Path(report.output_dir) / "adapter_model.safetensors").read_bytes()
    return Outcome(report.losses, hashlib.sha256(weights).hexdigest())


def moments(kills: int, seed: int) -> list[tuple[int, float]]:
    """Random steps, and random delays up to about the length of a step."""
    chance = random.Random(seed)
    return [(chance.randint(1, STEPS - 1), chance.uniform(0.0, 0.1)) for _ in range(kills)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        world = make_world(Path(scratch))
        expected = undisturbed(plan_in(Path(scratch) / "undisturbed", world))
        for number, (step, delay) in enumerate(moments(args.kills, args.seed), start=1):
            found = killed(plan_in(Path(scratch) / f"killed-{number}", world), step, delay)
            same = found.outcome == expected
            rows.append({"killed_after": step, "resumed_from": found.resumed_from, "identical": same})
            print(
                f"{number:3} killed after step {found.step:2}, resumed from {found.resumed_from:2}: "
                f"{'identical' if same else 'DIFFERENT'}",
                flush=True,
            )
    wrong = sum(not row["identical"] for row in rows)
    made = {"date": datetime.now(UTC).date().isoformat(), "seed": args.seed, "packages": installed_packages()}
    OUT.write_text(json.dumps(made | {"kills": rows}, indent=2) + "\n", encoding="utf-8")
    print(f"{args.kills - wrong} of {args.kills} identical to the uninterrupted run", flush=True)
    return 1 if wrong else 0


def _must_finish(events: list[Event]) -> None:
    if not isinstance(events[-1], Finished):
        raise SystemExit(f"the run did not finish: {events[-1]}")


if __name__ == "__main__":
    sys.exit(main())
