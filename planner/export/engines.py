"""Everything a plan is exported to, by name."""

from vramplan.planner.export import axolotl, clouds, launchers, llamafactory, script, trl_cli
from vramplan.planner.export.engine import Engine

ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        script.ENGINE,
        launchers.ACCELERATE,
        launchers.TORCHRUN,
        launchers.SLURM,
        clouds.SKYPILOT,
        clouds.KUBERNETES,
        clouds.PYTORCHJOB,
        axolotl.ENGINE,
        llamafactory.ENGINE,
        trl_cli.ENGINE,
    )
}
