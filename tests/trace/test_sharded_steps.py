"""Ranks against reality: shards as torch cuts them for any world, and the step of two real processes."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vramplan.planner.memory.units import Parameter, Unit

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(params=(8, 64, 1024))
def world(request: pytest.FixtureRequest) -> Iterator[int]:
    """A process group of that size whose other ranks do not exist."""
    pytest.importorskip("torch")
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=request.param, store=FakeStore())
    yield request.param
    dist.destroy_process_group()


def test_shards_are_cut_as_fsdp2_cuts_them(world: int) -> None:
    import torch
    from torch import nn
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    layer = nn.Sequential(nn.Linear(48, 301), nn.Linear(301, 16), nn.LayerNorm(16))
    shapes = [tuple(each.shape) for each in layer.parameters()]
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    group: Any = fully_shard(layer, mesh=init_device_mesh("cpu", (world,)), mp_policy=half)._get_fsdp_state()
    unit = Unit([Parameter(shape, 2, 4, trains=True) for shape in shapes])
    shards = [each._sharded_param_data.numel() for each in group._fsdp_param_group.fsdp_params]
    assert shards == [each.shard_numel(world) for each in unit.parameters]
    gathered = []
    original = torch.distributed.all_gather_single

    def gather(output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        gathered.append(output.nbytes)
        return original(output, *args, **kwargs)

    torch.distributed.all_gather_single = gather
    try:
        group._lazy_init()
        group._fsdp_param_group.unshard()
        group._fsdp_param_group.wait_for_unshard()
    finally:
        torch.distributed.all_gather_single = original
    assert gathered == [unit.gather_bytes(world)]
    whole = [each.all_gather_outputs[0].untyped_storage().nbytes() for each in group._fsdp_param_group.fsdp_params]
    assert whole == unit.whole_bytes(world, 1)


@pytest.fixture(scope="module")
def sharded() -> Iterator[ModuleType]:
    pytest.importorskip("torch")
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("sharded")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("cell", ["fsdp, full, fp32", "fsdp, lora, fp32", "ddp, lora, bf16 base"])
def test_two_real_ranks_hold_what_is_predicted(sharded: ModuleType, cell: str) -> None:
    row = sharded.run_cell(cell)
    assert abs(row["off_by"]) <= 0.02


@pytest.mark.parametrize("cell", ["zero1, full, bf16", "zero2, lora, bf16", "zero3, full, fp32"])
def test_two_real_ranks_of_deepspeed_hold_what_is_predicted(sharded: ModuleType, cell: str) -> None:
    pytest.importorskip("deepspeed")
    row = sharded.run_cell(cell)
    assert abs(row["off_by"]) <= 0.02
