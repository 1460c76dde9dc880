"""A key on the Run screen at the beginning of a run, and after it has said a great deal."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from speed import Timing, middle

NUM_EVENTS = 10_000
PATH = "runs/none/plan.json"


async def key_during_run(
    app: Any, until: Callable[[Callable[[], bool]], Any], painted: Callable[[Any], Any], presses: int
) -> dict[str, Timing]:
    """Medians of the key that comes back to the Run screen, until the loss, the memory and the log are painted.

    The app shows a priced choice; the run is scripted, so no model is trained, and no plan file is written.
    """
    from vramplan.executor.events import Event, Progress, Started
    from vramplan.executor.events import Step as TrainingStep
    from vramplan.planner.adapters.plan_files import freeze_plan
    from vramplan.tui.choice import SavedPlan
    from vramplan.tui.messages import RunWanted

    go_on = asyncio.Event()

    async def launch(saved: SavedPlan, *, resume: bool = False) -> AsyncGenerator[Event, None]:
        yield Started(time=0.0, pid=1, fingerprint=saved.plan.fingerprint)
        await go_on.wait()
        for n in range(NUM_EVENTS):
            yield Progress(time=float(n), what=f"event {n}")
            yield TrainingStep(time=float(n), step=n + 1, max_steps=NUM_EVENTS, loss=1.0 + 1.0 / (n + 1))
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    async def timed() -> Timing:
        timings = []
        for _ in range(presses + 1):
            app.simulate_key("4")
            await until(lambda: app.screen.step == "budget")
            await painted(app)
            before = time.perf_counter(), time.process_time()
            app.simulate_key("7")
            await until(lambda: app.screen.step == "run")
            await painted(app)
            timings.append(Timing(time.perf_counter() - before[0], time.process_time() - before[1]))
        return middle(timings[1:])

    priced, app.core.launch = app.state.priced, launch
    plan = freeze_plan(priced.candidate, app.state.choice.model, priced.recipe, None)
    app.post_message(RunWanted(SavedPlan(path=PATH, plan=plan)))
    await until(lambda: app.state.run is not None and app.state.run.num_logged == 1)
    found = {"at the beginning of a run": await timed()}
    go_on.set()
    await until(lambda: app.state.run.num_logged == NUM_EVENTS + 1)
    return found | {f"after {NUM_EVENTS:,} events and as many steps": await timed()}
