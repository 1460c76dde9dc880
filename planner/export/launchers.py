"""What starts the standalone script on a machine or a cluster: accelerate, torchrun, Slurm. One process, so far."""

from vramplan.planner.export.engine import Engine, Files, Source
from vramplan.planner.export.header import header, slug
from vramplan.planner.export.limits import common
from vramplan.planner.export.script import FIELDS, SCRIPT
from vramplan.planner.export.script import write as write_script
from vramplan.planner.export.shell import environment, shell_script, word
from vramplan.planner.export.trainer import on_cpu
from vramplan.planner.export.yaml_text import inert, yaml_text
from vramplan.planner.plan import Plan


def write_accelerate(source: Source) -> Files:
    """The script, a config for ``accelerate launch``, and a script that launches."""
    plan = source.plan
    config = {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        "distributed_type": "NO",
        "enable_cpu_affinity": False,
        "machine_rank": 0,
        "main_training_function": "main",
        "mixed_precision": plan.setup.precision.mixed_precision,
        "num_machines": 1,
        "num_processes": 1,
        "rdzv_backend": "static",
        "same_network": True,
        "use_cpu": on_cpu(plan),
    }
    command = ["accelerate", "launch", "--config_file", "accelerate.yaml", SCRIPT]
    return write_script(source) | {
        "accelerate.yaml": yaml_text(config, *header(plan)),
        "run.sh": shell_script(plan, command, comments=header(plan)),
    }


def write_torchrun(source: Source) -> Files:
    """The script, and a script that starts it under torchrun."""
    plan = source.plan
    command = ["torchrun", "--standalone", "--nnodes=1", "--nproc-per-node=1", SCRIPT]
    return write_script(source) | {"run.sh": shell_script(plan, command, comments=header(plan))}


def write_slurm(source: Source) -> Files:
    """The script, and a batch script for ``sbatch``."""
    return write_script(source) | {"job.sbatch": _batch_script(source.plan)}


def _batch_script(plan: Plan) -> str:
    directives = {
        "job-name": slug(plan),
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": "4",
        "output": "%x-%j.out",
        **({} if on_cpu(plan) else {"gres": "gpu:1"}),
    }
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            *(f"#SBATCH --{name}={value}" for name, value in directives.items()),
            *(f"# {inert(line)}" for line in header(plan)),
            "# Submit it from its own folder, with the Python environment active: sbatch job.sbatch",
            "# Partition, account and time are the cluster's: add them on the command line.",
            "set -euo pipefail",
            'cd "${SLURM_SUBMIT_DIR:-.}"',
            *(f"export {name}={word(value)}" for name, value in environment(plan).items()),
            f"srun --ntasks=1 python {SCRIPT}",
            "",
        ]
    )


ACCELERATE = Engine(
    "accelerate", "the script, and a config to launch it with accelerate", FIELDS, common, write_accelerate
)
TORCHRUN = Engine("torchrun", "the script, and how to start it under torchrun", FIELDS, common, write_torchrun)
SLURM = Engine("slurm", "the script, and a batch script for Slurm", FIELDS, common, write_slurm)
