"""Time the app: in a terminal, from nothing to its first frame; without one, from a key to the repainted budget.

    python benchmarks/app.py

Writes results/app.json and the table in README.md. A key turns the sequence length to and fro, so that each press
is a change; it is timed until the figures of that change are on the screen (what is allocated, phase by phase and along
the step), and until the whole price is: the allocator replayed, the tensors at the peak named, the verdict. The key
back to the Run screen is timed at a run's beginning and after 10,000 events. Processor time stands beside wall
time because a machine may be shared. Beside three models of every size stand the three of the catalogue whose figures
take longest to work out.
"""

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from first_frame import time_to_text
from long_run import key_during_run
from speed import COMMAND, Timing, middle
from tables import table, write_between

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "app.json"
MODELS = ("HuggingFaceTB/SmolLM2-135M", "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-405B")
NUM_SLOWEST = 3
SIZE = (120, 40)
FIRST_FRAME = "What this card can tune"
"""Stands on the first screen."""


def start(runs: int) -> dict[str, dict[str, float]]:
    """As a person sees it, in a terminal: to the first frame, and until the first models are listed in it."""
    from vramplan.tui.live_core import LiveCore

    texts = {"first frame": FIRST_FRAME, "first models listed": LiveCore().search_models("", 1)[0].id}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment = kept | {"PYTHONPYCACHEPREFIX": f"{folder}/bytecode", "XDG_CONFIG_HOME": f"{folder}/config"}
        for name, text in texts.items():
            timings = [time_to_text(COMMAND, text, SIZE, environment) for _ in range(runs + 1)]
            found[name] = _rounded(middle(timings[1:]))  # the first compiles
    return found


@asynccontextmanager
async def priced_app(model: str) -> AsyncGenerator[Any, None]:
    """The app on its real core, with a model priced for a device, and nobody's memory of earlier times."""
    from vramplan.planner.adapters.devices import resolve_device
    from vramplan.tui.app import VramplanApp
    from vramplan.tui.bindings import STEPS
    from vramplan.tui.live_core import LiveCore
    from vramplan.tui.messages import ModelChosen
    from vramplan.tui.remembered import Remembered

    core = LiveCore()
    device = resolve_device("RTX 4090", memory_bytes=None, reserve_bytes=0)
    core.default_device = lambda: device  # type: ignore[method-assign]
    core.remembered = lambda: Remembered(hinted=tuple(name for name, _ in STEPS))  # type: ignore[method-assign]
    core.remember = lambda remembered: None  # type: ignore[method-assign]
    core.largest = lambda device, knobs: iter(())  # type: ignore[method-assign]
    app = VramplanApp(core)
    async with app.run_test(size=SIZE):
        await _until(lambda: app.state.choice.device is not None)
        app.post_message(ModelChosen(core.resolve_model(model), "qlora"))
        await _until(lambda: app.state.priced is not None)
        yield app


async def key_to_paint(model: str, presses: int) -> dict[str, dict[str, float]]:
    """Medians over some presses, after one of each kind that is not counted."""
    timings: dict[str, list[tuple[float, float]]] = {"figures": [], "price": []}
    async with priced_app(model) as app:
        app.simulate_key("j")
        for press in range(presses + 2):
            before = _clocks()
            app.simulate_key("l" if press % 2 else "h")
            await _until(lambda: app.state.glance is not None and app.state.priced is None)
            await _painted(app)
            timings["figures"].append(_since(before))
            await _until(lambda: app.state.priced is not None)
            await _painted(app)
            timings["price"].append(_since(before))
    return {name: _rounded(middle([Timing(*each) for each in found[2:]])) for name, found in timings.items()}


async def run_keys(presses: int) -> dict[str, dict[str, float]]:
    """The key back to the Run screen, early and late in a run."""
    async with priced_app(MODELS[0]) as app:
        found = await key_during_run(app, _until, _painted, presses)
    return {when: _rounded(timing) for when, timing in found.items()}


def _rounded(timing: Timing) -> dict[str, float]:
    return {name: round(seconds, 4) for name, seconds in timing._asdict().items()}


def slowest_models() -> list[str]:
    """The catalogue's models whose figures take the most processor time, of those whose program ships."""
    from vramplan.planner.adapters.devices import resolve_device
    from vramplan.planner.errors import VramplanError
    from vramplan.tui.choice import Choice, Knobs
    from vramplan.tui.live_core import LiveCore

    core, device = LiveCore(), resolve_device("RTX 4090", memory_bytes=None, reserve_bytes=0)[0]
    took: dict[str, float] = {}
    for model in core.search_models("", 10_000):
        with suppress(VramplanError):
            spec = core.resolve_model(model.id)
            for length in (512, 1024):  # the first reads the program
                began = time.process_time()
                core.glance(Choice(model=spec, device=device, knobs=Knobs(method="qlora", sequence_length=length)))
                took[model.id] = time.process_time() - began
    return sorted(took, key=lambda name: took[name], reverse=True)[:NUM_SLOWEST]


async def _until(there: Callable[[], bool]) -> None:
    while not there():
        await asyncio.sleep(0.001)


async def _painted(app: Any) -> None:
    """The screen has sent its repaint to the terminal's driver."""
    done = asyncio.Event()
    app.screen.call_after_refresh(done.set)
    await done.wait()


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(before: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = _clocks()
    return wall - before[0], cpu - before[1]


def measure(runs: int, presses: int) -> dict[str, Any]:
    """Every figure, with the machine's facts."""
    return {
        "machine": {
            "usable_cores": len(os.sched_getaffinity(0)),
            "architecture": platform.machine(),
            "python": platform.python_version(),
            "load_average": round(os.getloadavg()[0], 2),
        },
        "size": list(SIZE),
        "runs": runs,
        "presses": presses,
        "start": start(runs),
        "run_key": asyncio.run(run_keys(presses)),
        "key": {model: asyncio.run(key_to_paint(model, presses)) for model in (*MODELS, *slowest_models())},
    }


def markdown(result: dict[str, Any]) -> str:
    """The table of README.md."""
    machine = result["machine"]
    rows = [[f"process start to {name}", *_figures(found)] for name, found in result["start"].items()]
    for model, found in result["key"].items():
        rows.append([f"a key to its figures: {model}", *_figures(found["figures"])])
        rows.append([f"a key to its whole price: {model}", *_figures(found["price"])])
    rows += [[f"a key to the Run screen, {when}", *_figures(found)] for when, found in result["run_key"].items()]
    facts = (
        f"At {result['size'][0]} x {result['size'][1]}, the start in a terminal; medians of {result['runs']} starts "
        f"and {result['presses']} presses; Python {machine['python']}, {machine['architecture']}, "
        f"{machine['usable_cores']} usable core(s), load {machine['load_average']} (shared: trust processor time)."
    )
    return f"{facts}\n\n{table(['what', 'wall', 'processor'], rows, 'lrr')}"


def _figures(found: dict[str, float]) -> list[str]:
    return [f"{1000 * found[name]:.0f} ms" for name in ("wall_seconds", "cpu_seconds")]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the app's start and its keys.")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--presses", type=int, default=20)
    args = parser.parse_args()
    result = measure(args.runs, args.presses)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    write_between(HERE / "README.md", "app", markdown(result))


if __name__ == "__main__":
    main()
