"""One rank of a sharded micro step on real tensors, under the tracker: what planner/memory/sharded*.py is checked by.

    python -P -m vramplan.planner.trace.ranks CASE.json RANK WORLD STORE

CASE is {"model": ModelSpec, "workload": Workload, "setup": TrainingSetup}; processes meet in the file STORE over gloo.
The model is wrapped by the engines themselves (accelerate's ``fsdp2_prepare_model``, DistributedDataParallel), stepped
twice so that everything lazy exists, and the third step is tracked. Prints one JSON object: bytes at the highest point
of each phase, and at the end. What gloo allocates inside a collective is no tensor of the engine's and is not seen.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from vramplan.planner.memory.replay import PHASES
from vramplan.planner.memory.structure import program_key
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.programs.key import Mode
from vramplan.planner.trace import loss, quantize, step
from vramplan.planner.trace.record import Case, build_model, declare_static
from vramplan.planner.trace.rng_states import seen_states
from vramplan.planner.trace.segments import following
from vramplan.planner.trace.skeleton import TORCH_DTYPES
from vramplan.planner.trace.tracker import Event, Tracker, exact_lifetimes
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.workload import Workload


class RankTracker(Tracker):
    """A tracker that sees through DTensor to the local tensors, and storages that FSDP2 resizes in place."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented  # DTensor unwraps itself, and what it runs on local tensors comes here again
        return super().__torch_dispatch__(func, types, args, kwargs)

    def see(self, tensor: torch.Tensor, op: str = "outside", tag: str | None = None) -> int | None:
        return super().see(tensor._local_tensor if isinstance(tensor, DTensor) else tensor, op, tag)

    @contextlib.contextmanager
    def resizing(self) -> Iterator[None]:
        """Follow FSDP2's ``alloc_storage`` and ``free_storage``, which no dispatch mode sees."""
        from torch.distributed.fsdp._fully_shard import _fsdp_param as module

        alloc, free = module.alloc_storage, module.free_storage

        def allocated(tensor: torch.Tensor) -> None:
            alloc(tensor)
            self.see(tensor, "fsdp.alloc_storage")

        def freed(tensor: torch.Tensor) -> None:
            index = self._live.pop(tensor.untyped_storage()._cdata, None)
            free(tensor)
            if index is not None:
                del self._refs[index]
                self._log_free(index)

        with patch.object(module, "alloc_storage", allocated), patch.object(module, "free_storage", freed):
            yield

    def _log_free(self, index: int) -> None:
        self.events.append(Event("free", index, (self.where.name, self.where.layer)))


def begun(model: ModelSpec, workload: Workload, alone: TrainingSetup) -> tuple[Mode, nn.Module, RankTracker]:
    """What every rank begins with, the same weights on each: the mode and the model of a setup of one process."""
    mode = program_key(model, workload, alone, "cpu", None).mode
    case = Case(model.config, mode, alone.micro_batch_size, workload.sequence_length, getattr(alone.method, "r", 1))
    torch.manual_seed(0)
    net = build_model(case, real=True)
    tracker = RankTracker(replace=quantize.opened_kernels() if mode.quant else {})
    tracker.where.name = "init"
    return mode, net, tracker


def own_batch(model: ModelSpec, workload: Workload, setup: TrainingSetup) -> step.Batch:
    """A batch of this rank's alone."""
    torch.manual_seed(dist.get_rank())
    rows, tokens = setup.micro_batch_size, workload.sequence_length
    return step.language_batch(rows, tokens, real=True, vocab_size=model.config["vocab_size"])


def run_rank(model: ModelSpec, workload: Workload, setup: TrainingSetup) -> dict[str, Any]:
    """This rank's third step: forward, backward and optimizer, in bytes of tensors, batches left out.

    Returns:
        ``static``: what is there before it; ``peaks``: by phase, with the static part; ``end``: after the backward;
        ``optimizer_step``: the highest point of clipping and stepping.
    """
    alone = setup.model_copy(update=ALONE)
    mode, net, tracker = begun(model, workload, alone)
    with contextlib.ExitStack() as stack:
        if mode.loss == "fused":
            stack.enter_context(loss.fused_loss("cpu", tracker, as_macro=False))
        if setup.sharding == "ddp":  # its buckets are nowhere to be found but as they are made
            declare_static(net, tracker)
            stack.enter_context(tracker)
        wrapped = WRAPPERS[setup.sharding](net, mode)
        optimizer = torch.optim.AdamW([each for each in wrapped.parameters() if each.requires_grad], fused=True)
        batch = own_batch(model, workload, setup)
        items = step.count_items([batch])
        for number in range(STEPS):
            mark: step.Mark = unmarked
            if number == STEPS - 1:
                _declare(wrapped, optimizer, [*batch.values(), items], tracker)
                states = seen_states(tracker)
                for context in (following(net, tracker), tracker.resizing(), states, settled(), exact_lifetimes()):
                    stack.enter_context(context)
                if setup.sharding != "ddp":
                    stack.enter_context(tracker)
                mark = marker(tracker)
            held = step.micro_step(wrapped, batch, items, mode.loss, mark)
            norm = step.optimizer_step(wrapped, optimizer, max_grad_norm=1.0, mark=mark)
        tracker.events = list(tracker.events)
        del held, norm
    return levels(tracker)


def unmarked(name: str) -> None:
    """Steps before the one that counts are all one."""


STEPS = 3
"""Optimizer states and FSDP2's lazy parts come with the first, DDP's buckets in their order with the second."""
SETTLING_SECONDS = 0.01
ALONE = {"sharding": "none", "offload": "none"}


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """Let gloo's thread drop what a collective worked on before the step goes on: how soon it does is chance."""
    names = ("all_gather_single", "reduce_scatter_single", "all_reduce")
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(patch.object(dist, name, _then_wait(getattr(dist, name))))
        yield


def _then_wait(collective: Any) -> Any:
    def called(*args: Any, **kwargs: Any) -> Any:
        work = collective(*args, **kwargs)
        if work is None:
            time.sleep(SETTLING_SECONDS)
        return work

    return called


def marker(tracker: Tracker) -> step.Mark:
    names = {"forward": "forward.embed", "backward": "backward.head", "clip": "optimizer_step"}

    def mark(name: str) -> None:
        ended = name == "end" and tracker.where.name == "optimizer_step"
        tracker.where.name, tracker.where.layer = "over" if ended else names.get(name, name), None

    return mark


def _declare(model: nn.Module, optimizer: torch.optim.Optimizer, batch: list[torch.Tensor], tracker: Tracker) -> None:
    declare_static(model, tracker)
    for state in optimizer.state.values():
        for tensor in state.values():
            tracker.see(tensor, tag="optimizer")
    for tensor in batch:
        tracker.see(tensor, tag="batch")


def levels(tracker: Tracker) -> dict[str, Any]:
    """Heights of the log, batches left out."""
    level = end = 0
    static: dict[str, int] = {}
    peaks: dict[str, int] = {}
    for event in tracker.events:
        storage = tracker.storages[event.storage]
        if event.kind not in ("alloc", "free") or storage.tag == "batch":
            continue
        size = storage.nbytes if event.kind == "alloc" else -storage.nbytes
        name = event.segment[0]
        if name == "init":
            level += size
            static[storage.tag or "other"] = static.get(storage.tag or "other", 0) + size
            continue
        if name == "over":
            break
        phase = PHASES.get(name, name)
        begun = peaks.get(phase, level)
        level += size
        peaks[phase] = max(begun, level)
        if phase == "backward":
            end = level
    return {"static": static, "peaks": peaks, "end": end}


def _fsdp(model: nn.Module, mode: Mode) -> nn.Module:
    """As accelerate prepares a model for FSDP2 (accelerate/utils/fsdp_utils.py)."""
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        auto_wrap_policy="transformer_based_wrap",
        cpu_ram_efficient_loading=False,
        state_dict_type="SHARDED_STATE_DICT",
    )
    if mode.mixed_precision != "no":
        plugin.set_mixed_precision(mode.mixed_precision)
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        mixed_precision=mode.mixed_precision,
        is_main_process=False,
        device=torch.device("cpu"),
    )
    _store_as(model, TORCH_DTYPES[mode.dtype])
    with torch.device("cpu"):
        return fsdp2_prepare_model(accelerator, model)


def _store_as(model: nn.Module, dtype: torch.dtype) -> None:
    """Packed 4-bit weights as elements of a floating dtype, as ``bnb_4bit_quant_storage`` has them: FSDP2 shards no
    other."""
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.weight.data = module.weight.data.view(-1).view(dtype).view(-1, 1)
            module.weight.quant_storage = module.quant_storage = dtype


def _ddp(model: nn.Module, mode: Mode) -> nn.Module:
    """As accelerate prepares a model for DDP, with its default arguments (accelerate/accelerator.py, prepare_model)."""
    return nn.parallel.DistributedDataParallel(model)


WRAPPERS = {"fsdp": _fsdp, "ddp": _ddp}


def main(arguments: list[str]) -> int:
    """The command in the module's first lines."""
    path, rank, world, store = arguments
    case = json.loads(Path(path).read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(world))
    found = run_rank(
        ModelSpec.model_validate(case["model"]),
        Workload.model_validate(case["workload"]),
        TrainingSetup.model_validate(case["setup"]),
    )
    dist.destroy_process_group()
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
