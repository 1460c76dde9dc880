"""What starts the standalone script on a machine or a cluster: accelerate, torchrun, Slurm.

Where a plan has several nodes, torchrun and accelerate are started on each, and are told the first one's address.
"""

from collections.abc import Iterator
from typing import Any

from vramplan.planner.export.engine import Engine, Files, Refusal, Source
from vramplan.planner.export.header import header, slug
from vramplan.planner.export.ranks import (
    RENDEZVOUS_PORT,
    first_node,
    script_limits,
    sends_shards,
    several,
    torchrun,
)
from vramplan.planner.export.script import FIELDS, SCRIPT
from vramplan.planner.export.script import write as write_script
from vramplan.planner.export.shell import Shell, environment, line, shell_script, word
from vramplan.planner.export.trainer import on_cpu
from vramplan.planner.export.yaml_text import inert, yaml_text
from vramplan.planner.plan import Plan

NODE_RANK, FIRST_ADDRESS = '"${NODE_RANK:?of this node, from 0}"', '"${MASTER_ADDR:?of the first node}"'
"""What a person sets on each of several nodes."""


def refuses_accelerate(source: Source) -> Iterator[Refusal]:
    """Several processes on a CPU: accelerate's launcher would start one."""
    yield from script_limits(source)
    if several(source.plan) and on_cpu(source.plan):
        for name in ("gpus", "nodes"):
            value = getattr(source.plan.setup, name)
            if value > 1:
                yield Refusal(f"setup.{name}", value, "on a CPU it starts one process", f"--{name} 1")


def write_accelerate(source: Source) -> Files:
    """The script, a config for ``accelerate launch``, and a script that launches."""
    plan = source.plan
    config = {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        "distributed_type": _distributed_type(plan),
        "enable_cpu_affinity": False,
        "machine_rank": 0,
        "main_training_function": "main",
        "mixed_precision": plan.setup.precision.mixed_precision,
        "num_machines": plan.setup.nodes,
        "num_processes": plan.setup.world_size,
        "rdzv_backend": "static",
        "same_network": True,
        "use_cpu": on_cpu(plan),
    }
    if plan.setup.sharding == "fsdp":
        config["fsdp_config"] = _fsdp_config(plan)
    nodes = [
        Shell(f"--machine_rank={NODE_RANK}"),
        Shell(f"--main_process_ip={FIRST_ADDRESS}"),
        f"--main_process_port={RENDEZVOUS_PORT}",
    ]
    told = nodes if plan.setup.nodes > 1 else []
    command = ["accelerate", "launch", "--config_file", "accelerate.yaml", *told, SCRIPT]
    return write_script(source) | {
        "accelerate.yaml": yaml_text(config, *header(plan)),
        "run.sh": shell_script(plan, command, comments=_comments(plan)),
    }


def _distributed_type(plan: Plan) -> str:
    if plan.setup.sharding == "fsdp":
        return "FSDP"
    return "MULTI_GPU" if several(plan) else "NO"


def _fsdp_config(plan: Plan) -> dict[str, Any]:
    """As the script says it itself; accelerate hands it on through the environment."""
    return {
        "fsdp_version": 2,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_reshard_after_forward": True,
        "fsdp_offload_params": plan.setup.offload == "all",
        "fsdp_cpu_ram_efficient_loading": sends_shards(plan),
        "fsdp_state_dict_type": "FULL_STATE_DICT",
        "fsdp_activation_checkpointing": False,
    }


def _comments(plan: Plan) -> tuple[str, ...]:
    """At the top of ``run.sh``."""
    nodes = plan.setup.nodes
    start = f"Start it on each of {nodes} nodes: NODE_RANK=0 MASTER_ADDR=first-node ./run.sh, then NODE_RANK=1 ..."
    return (*header(plan), start) if nodes > 1 else header(plan)


def write_torchrun(source: Source) -> Files:
    """The script, and a script that starts it under torchrun."""
    plan = source.plan
    command = [*torchrun(plan, rendezvous=first_node(FIRST_ADDRESS, NODE_RANK)), SCRIPT]
    return write_script(source) | {"run.sh": shell_script(plan, command, comments=_comments(plan))}


def write_slurm(source: Source) -> Files:
    """The script, and a batch script for ``sbatch``."""
    return write_script(source) | {"job.sbatch": _batch_script(source.plan)}


_FIRST_HOST = 'MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"'
_BY_SLURM = (
    "--rdzv-backend=c10d",
    Shell('--rdzv-id="$SLURM_JOB_ID"'),
    Shell(f'--rdzv-endpoint="$MASTER_ADDR:{RENDEZVOUS_PORT}"'),
)
"""Nodes that Slurm starts alike: torchrun numbers them when they meet at the first host."""


def _batch_script(plan: Plan) -> str:
    setup = plan.setup
    directives = {
        "job-name": slug(plan),
        "nodes": str(setup.nodes),
        "ntasks": str(setup.nodes),
        **({"ntasks-per-node": "1"} if setup.nodes > 1 else {}),
        "cpus-per-task": str(4 * setup.gpus),
        "output": "%x-%j.out",
        **({} if on_cpu(plan) else {"gres": f"gpu:{setup.gpus}"}),
    }
    starts = torchrun(plan, rendezvous=_BY_SLURM) if several(plan) else ["python"]
    meeting = [_FIRST_HOST] if setup.nodes > 1 else []
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
            *meeting,
            line(["srun", f"--ntasks={setup.nodes}", *starts, SCRIPT]),
            "",
        ]
    )


ACCELERATE = Engine(
    "accelerate", "the script, and a config to launch it with accelerate", FIELDS, refuses_accelerate, write_accelerate
)
TORCHRUN = Engine("torchrun", "the script, and how to start it under torchrun", FIELDS, script_limits, write_torchrun)
SLURM = Engine("slurm", "the script, and a batch script for Slurm", FIELDS, script_limits, write_slurm)
