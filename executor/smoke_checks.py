"""Preflight's one-operation tests: which kernels a plan needs, tried in a child process, and what mends each."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping

from vramplan.executor.checks import Check
from vramplan.executor.environment import worker_environment
from vramplan.planner.device import Device
from vramplan.planner.methods import quant_of
from vramplan.planner.plan import Plan

SMOKE = (sys.executable, "-P", "-m", "vramplan.executor.smoke")
LIMIT_SECONDS = 300.0
REMEDIES = {
    "matmul": "check the driver with nvidia-smi; install a torch built for this GPU and CUDA version",
    "4-bit": "install a bitsandbytes built for this device, or re-plan with --method lora",
    "8-bit": "install a bitsandbytes built for this device, or re-plan with --quant nf4",
    "8-bit optimizer": "install a bitsandbytes built for this device, or re-plan with --optimizer adamw_torch_fused",
    "flash attention": "install flash-attn for this torch and GPU, or re-plan with --attention sdpa",
}


def needed_operations(plan: Plan) -> tuple[str, ...]:
    """The operations that may be missing where the plan runs; none for a plain run on a CPU."""
    quant, optimizer = quant_of(plan.setup.method), plan.setup.optimizer
    on_cpu = plan.device is not None and plan.device.kind == "cpu"
    wanted = {
        "matmul": not on_cpu,
        "4-bit": quant in ("nf4", "fp4"),
        "8-bit": quant == "int8",
        "8-bit optimizer": optimizer.endswith("8bit"),
        "flash attention": plan.setup.attention == "flash_attention_2",
    }
    return tuple(name for name, is_wanted in wanted.items() if is_wanted)


def smoke_checks(plan: Plan, device: Device | None, *, command: tuple[str, ...] = SMOKE) -> tuple[Check, ...]:
    """Try them, one process for all; a process that dies or hangs fails them all."""
    names = needed_operations(plan)
    if not names or device is None:
        return ()
    results = _tried(command, names, device, worker_environment(plan, device, os.environ))
    return tuple(
        Check(name=name, verdict="ok", found="one operation ran")
        if (failure := results.get(name, "no answer")) is None
        else Check(name=name, verdict="blocks", found=failure, remedy=REMEDIES[name])
        for name in names
    )


def _tried(
    command: tuple[str, ...], names: tuple[str, ...], device: Device, environment: Mapping[str, str]
) -> dict[str, str | None]:
    where = "cpu" if device.kind == "cpu" else "cuda:0"
    try:
        done = subprocess.run(
            [*command, ",".join(names), where],
            capture_output=True,
            text=True,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            timeout=LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return dict.fromkeys(names, f"it hung for {LIMIT_SECONDS:.0f} seconds")
    try:
        results: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return dict.fromkeys(names, f"the test ended with exit code {done.returncode}: {said}")
    return results
