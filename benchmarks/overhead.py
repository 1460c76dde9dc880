"""What supervision costs a step: our trainer, watched, beside the bare SFTTrainer, step by step in turn.

    python -m benchmarks.overhead [--steps 60] [--out FILE]

Two runs of the same model, rows and arguments alternate within one process, one step each, so that whatever else the
machine does meets both. Ours has everything a run has (phases marked, telemetry, guard, evidence, one event a step),
and its events go through a pipe to a process that parses, keeps and flushes them as the launcher does. A step is timed
from the end of the turn before it to its own end, logging and callbacks included, in processor time of its thread and
in wall time. Beside that, which a busy machine blurs, the time inside our own hooks is counted. Steps that are
measured, verified or saved are not among them: they happen once, or every 15 minutes.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.executor.factories import make_plan, make_setup
from vramplan.executor import training_args as arguments
from vramplan.executor.attempt import Attempt
from vramplan.executor.evidence import Evidence
from vramplan.executor.guard import Guard
from vramplan.executor.marks import Marks
from vramplan.executor.measure_cpu import CpuMeter
from vramplan.executor.packages import installed_packages
from vramplan.executor.process import Stop
from vramplan.executor.random_weights import random_tokenizer
from vramplan.executor.ranks import Ranks
from vramplan.executor.saving import Saver
from vramplan.executor.telemetry import Telemetry
from vramplan.executor.trainer import trainer_class
from vramplan.planner.methods import Full

OUT = Path(__file__).parent / "results" / "overhead.json"
WARM_UP = 6
"""First steps of each, which are left out: the optimizer's states are made in them."""
ROWS, LENGTH = 2, 128
WATCHER = """
import sys, time
from vramplan.executor.events import parse_event
began = time.process_time()
with open(sys.argv[1], "a", encoding="utf-8") as kept:
    for line in sys.stdin:
        kept.write(parse_event(line).model_dump_json(exclude_none=True) + "\\n")
        kept.flush()
print(time.process_time() - began)
"""


class Turns:
    """Hands the processor from one trainer to the other and back, and times what each does with it."""

    def __init__(self) -> None:
        self._mine = {"bare": threading.Semaphore(1), "ours": threading.Semaphore(0)}
        self.seconds: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
        self._began: dict[str, tuple[float, float]] = {}

    def next(self, name: str) -> None:
        """The turn of ``name`` is over; returns when it has the next one."""
        now = (time.perf_counter(), time.thread_time())
        if name in self._began:
            wall, processor = self._began[name]
            self.seconds[name].append((now[0] - wall, now[1] - processor))
            self.give_away(name)
        self._mine[name].acquire()
        self._began[name] = (time.perf_counter(), time.thread_time())

    def give_away(self, name: str) -> None:
        """Let the other go on."""
        self._mine["ours" if name == "bare" else "bare"].release()


def model() -> Any:
    """A Llama of 19 million random weights: a step of some tenths of a second on one thread."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=4096,
            hidden_size=512,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=8,
            intermediate_size=1376,
            max_position_embeddings=LENGTH,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=1,
            use_cache=False,
        )
    )


def rows(count: int) -> Any:
    """Random full rows."""
    import random

    from datasets import Dataset

    chance = random.Random(0)
    return Dataset.from_list([{"input_ids": [chance.randrange(2, 4096) for _ in range(LENGTH)]} for _ in range(count)])


def alternate(steps: int, scratch: Path) -> tuple[Turns, float, float]:
    """Both runs, in turn; the timings, and the processor seconds a step of the watcher and of our own hooks."""
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTTrainer

    turns = Turns()

    class Turn(TrainerCallback):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self.name = name

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            turns.next(self.name)

    setup = make_setup(Full(), micro_batch_size=ROWS)
    plan = make_plan(scratch, setup=setup, sequence_length=LENGTH, max_steps=steps, learning_rate=1e-4)
    data = rows(steps * ROWS)

    def options(name: str) -> dict[str, Any]:
        args = arguments.training_args(plan, on_cuda=False, completions=False, evaluates=False)
        args.output_dir = str(scratch / name)
        shared = {"model": model(), "args": args, "train_dataset": data, "processing_class": random_tokenizer()}
        return shared | {"callbacks": [Turn(name)]}

    bare = SFTTrainer(**options("bare"))
    bare.remove_callback(PrinterCallback)
    watcher = subprocess.Popen(
        [sys.executable, "-c", WATCHER, str(scratch / "events")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    pipe = watcher.stdin
    assert pipe is not None

    def emit(event: Any) -> None:
        pipe.write(event.model_dump_json(exclude_none=True) + "\n")
        pipe.flush()

    evidence, stop, meter, ranks = Evidence(plan), Stop(), CpuMeter(0), Ranks()
    marks = Marks(meter, evidence.enter)
    telemetry = Telemetry(emit, evidence, meter, stop, ranks)
    guard = Guard(Attempt(goal="verify"), evidence, emit, stop, ranks)
    taken = options("ours")
    taken["callbacks"] += [telemetry, guard]
    spent: list[float] = []
    for each in (telemetry, guard):
        timed(each, [name for name in vars(type(each)) if name.startswith("on_")], spent)
    timed(marks, ["enter"], spent)
    saver = Saver(evidence, stop, lambda text: None, ranks)
    ours = trainer_class(setup)(setup=setup, marks=marks, meter=meter, saver=saver, head_rows=ROWS, **taken)
    ours.remove_callback(PrinterCallback)
    telemetry.trainer = guard.trainer = ours
    marks.watch(ours.model)

    def run(name: str, trainer: Any) -> None:
        trainer.train()
        turns.give_away(name)

    threads = [threading.Thread(target=run, args=each) for each in (("bare", bare), ("ours", ours))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said, _ = watcher.communicate()
    return turns, float(said) / steps, sum(spent) / steps


def timed(owner: Any, names: list[str], spent: list[float]) -> None:
    """Count the processor seconds that these methods of an object take, calls among them counted twice."""

    def wrapped(method: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return method(*args, **options)
            finally:
                spent.append(time.thread_time() - began)

        return call

    for name in names:
        setattr(owner, name, wrapped(getattr(owner, name)))


def summary(turns: Turns, watcher_seconds: float, hooks_seconds: float) -> dict[str, Any]:
    """Ratios of neighbouring steps: median and quartiles."""
    pairs = list(zip(turns.seconds["bare"], turns.seconds["ours"], strict=False))[WARM_UP:]
    told: dict[str, Any] = {"pairs": len(pairs)}
    for index, clock in enumerate(("wall", "processor")):
        ratios = [ours[index] / bare[index] for bare, ours in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4)
        error = 1.2533 * statistics.stdev(ratios) / len(ratios) ** 0.5  # of a median, were they normal
        told[clock] = {
            "bare_seconds": statistics.median(bare[index] for bare, _ in pairs),
            "ours_seconds": statistics.median(ours[index] for _, ours in pairs),
            "ratio": middle,
            "quartiles": [low, high],
            "standard_error": error,
        }
    told["hooks_processor_seconds_a_step"] = hooks_seconds
    told["hooks_fraction"] = hooks_seconds / told["processor"]["bare_seconds"]
    told["watcher_processor_seconds_a_step"] = watcher_seconds
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        told = summary(*alternate(args.steps, Path(scratch)))
    about = {
        "measured_at": f"{datetime.now(UTC):%Y-%m-%d}",
        "device": f"CPU, one thread, {platform.machine()}",
        "packages": installed_packages(),
        "model": "Llama of 4 layers, hidden 512, fp32, full fine-tuning",
        "batch": f"{ROWS} x {LENGTH} tokens",
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(about | told, indent=1) + "\n")
    for clock in ("processor", "wall"):
        found = told[clock]
        print(
            f"{clock} time of a step: {found['bare_seconds']:.4f} s bare, {found['ratio'] - 1:+.2%} supervised "
            f"(quartiles {found['quartiles'][0] - 1:+.2%} to {found['quartiles'][1] - 1:+.2%})"
        )
    print(f"our hooks alone, counted: {told['hooks_fraction']:.2%} of a step's processor time")
    print(f"the watcher's own: {told['watcher_processor_seconds_a_step'] * 1000:.2f} ms of another process a step")
    return 0


if __name__ == "__main__":
    sys.exit(main())
