"""One rank of a step under DeepSpeed's ZeRO on real tensors: what planner/memory/zero*.py is checked by, as ranks.py is
for FSDP2.

    DS_ACCELERATOR=cpu python -P -m vramplan.planner.trace.zero_ranks CASE.json RANK WORLD STORE

The engine is DeepSpeed's own, configured as a run's is (planner/deepspeed.py), and steps as accelerate steps it, while
the loss still holds its graph (accelerate/utils/deepspeed.py, DeepSpeedEngineWrapper.backward).
"""

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from vramplan.planner.deepspeed import deepspeed_config, half_of
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.trace import loss, step
from vramplan.planner.trace.ranks import ALONE, STEPS, begun, levels, marker, own_batch, settled, unmarked
from vramplan.planner.trace.record import declare_static
from vramplan.planner.trace.rng_states import seen_states
from vramplan.planner.trace.segments import following
from vramplan.planner.trace.skeleton import TORCH_DTYPES
from vramplan.planner.trace.tracker import exact_lifetimes
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.workload import Workload

MAX_GRAD_NORM = 1.0


def run_rank(model: ModelSpec, workload: Workload, setup: TrainingSetup) -> dict[str, Any]:
    """This rank's third step in bytes of tensors, batches left out, as ``ranks.run_rank`` gives it."""
    mode, net, tracker = begun(model, workload, _alone(setup))
    with contextlib.ExitStack() as stack:
        if mode.loss == "fused":
            stack.enter_context(loss.fused_loss("cpu", tracker, as_macro=False))
        declare_static(net, tracker)
        stack.enter_context(tracker)  # DeepSpeed's own tensors are found as they are made
        engine = _engine(net, model, setup)
        batch = own_batch(model, workload, setup)
        items = step.count_items([batch])
        for tensor in (*batch.values(), items):
            tracker.see(tensor, tag="batch")
        for number in range(STEPS):
            mark: step.Mark = unmarked
            if number == STEPS - 1:
                for context in (following(net, tracker), seen_states(tracker), settled(), exact_lifetimes()):
                    stack.enter_context(context)
                mark = marker(tracker)
            _step(engine, batch, items, mode.loss, mark)
        tracker.events = list(tracker.events)
    return levels(tracker)


def _alone(setup: TrainingSetup) -> TrainingSetup:
    """One process, all of it in the engine's precision: accelerate enters no autocast under DeepSpeed."""
    changes: dict[str, Any] = {**ALONE, "gpus": 1}
    if (half := half_of(setup)) is not None:
        precision = {"dtype": half, "mixed_precision": "no", "adapter_dtype": half}
        changes["precision"] = setup.precision.model_copy(update=precision)
    return setup.model_copy(update=changes)


def _step(engine: Any, batch: step.Batch, items: torch.Tensor, kind: str, mark: step.Mark) -> None:
    engine.train()
    mark("forward")
    value = step.LOSSES[kind](engine, dict(batch), items)
    mark("backward")
    engine.backward(value, scale_wrt_gas=False)
    mark("end")
    mark("clip")
    engine.step()
    mark("optimizer_step")
    mark("end")


def _engine(net: nn.Module, model: ModelSpec, setup: TrainingSetup) -> Any:
    """DeepSpeed's engine around a model, with AdamW's two groups as Trainer makes them."""
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    deepspeed: Any = importlib.import_module("deepspeed")
    half = half_of(setup)
    if half is not None:
        net.to(TORCH_DTYPES[half])
    trained = [(name, each) for name, each in net.named_parameters() if each.requires_grad]
    decays = [each for name, each in trained if not (name.endswith("bias") or "norm" in name)]
    rest = [each for name, each in trained if name.endswith("bias") or "norm" in name]
    groups = [{"params": decays, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    config = deepspeed_config(setup, model.config, on_cpu=True)
    config |= {"train_micro_batch_size_per_gpu": setup.micro_batch_size, "gradient_accumulation_steps": 1}
    config["train_batch_size"] = setup.micro_batch_size * dist.get_world_size()
    config["gradient_clipping"] = MAX_GRAD_NORM
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], fused=True)
    engine = deepspeed.initialize(model=net, optimizer=optimizer, config=config)[0]
    engine.told = HfDeepSpeedConfig(dict(config))  # as TrainingArguments keep it: trl gathers the head where it says so
    return engine


def main(arguments: list[str]) -> int:
    """The command in the module's first lines."""
    deepspeed: Any = importlib.import_module("deepspeed")
    path, rank, world, store = arguments
    case = json.loads(Path(path).read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world)
    deepspeed.init_distributed(
        "gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(world), auto_mpi_discovery=False
    )
    found = run_rank(
        ModelSpec.model_validate(case["model"]),
        Workload.model_validate(case["workload"]),
        TrainingSetup.model_validate(case["setup"]),
    )
    dist.destroy_process_group()
    sys.stdout.write("\n" + json.dumps(found))  # DeepSpeed writes to stdout too
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
