"""Optimizer states and step temporaries against the real optimizers, tracked."""

import pytest

pytestmark = pytest.mark.train

SHAPES = [(300, 64), (64, 300), (64,), (128, 64), (7,)]


def _tracked(make, *, dtype="float32"):
    """Run clip and step twice on real tensors; state bytes, and the highest point of the second step above them."""
    import torch
    from torch import nn

    from vramplan.planner.trace.step import optimizer_step
    from vramplan.planner.trace.tracker import Tracker, exact_lifetimes

    model = nn.ParameterList([nn.Parameter(torch.randn(shape, dtype=getattr(torch, dtype))) for shape in SHAPES])
    optimizer = make(model)

    def gradients():
        for parameter in model:
            parameter.grad = torch.randn_like(parameter)

    gradients()
    optimizer.step()
    states = sum(
        value.untyped_storage().nbytes()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    gradients()
    tracker = Tracker()
    for parameter in model:
        tracker.see(parameter)
        tracker.see(parameter.grad)
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                tracker.see(value)
    before = len(tracker.storages)
    with exact_lifetimes(), tracker:
        optimizer_step(model, optimizer, max_grad_norm=1.0, mark=lambda name: None)
        events = list(tracker.events)
    return states, _highest(tracker, events, before)


def _highest(tracker, events, before):
    """The highest point above what was there; a state that is replaced goes down again."""
    level = highest = 0
    for event in events:
        size = tracker.storages[event.storage].nbytes
        if event.kind == "free":
            level -= size
        elif event.storage >= before:
            level += size
        highest = max(highest, level)
    return highest


def _groups(element_bytes):
    from math import prod

    from vramplan.planner.memory.static import Group

    return [Group(prod(shape), element_bytes, 1, decays=len(shape) > 1, shape=shape) for shape in SHAPES]


def _split(model):
    return [
        {"params": [p for p in model if p.dim() > 1], "weight_decay": 0.01},
        {"params": [p for p in model if p.dim() == 1], "weight_decay": 0.0},
    ]


@pytest.mark.parametrize(
    ("optimizer", "route", "options"),
    [
        ("adamw_torch_fused", "cpu", {"fused": True}),
        ("adamw_torch", "cpu", {"foreach": False}),
        ("adamw_torch", "cuda", {"foreach": True}),
    ],
)
def test_adamw_holds_and_borrows_what_is_counted(optimizer, route, options):
    import torch

    from vramplan.planner.memory.optimizer import state_groups, step_peak_bytes
    from vramplan.planner.memory.static import total_bytes

    states, highest = _tracked(lambda model: torch.optim.AdamW(_split(model), lr=1e-3, **options))
    groups = _groups(4)
    counted = total_bytes(state_groups(optimizer, groups, route), 1)
    host_steps = 4 * len(SHAPES) if route == "cuda" else 0  # foreach keeps the step counters on the host
    assert counted + host_steps == states
    norm = 0 if optimizer == "adamw_torch_fused" else 4  # held while the step runs; budgeted with the loop's scalars
    assert step_peak_bytes(optimizer, groups, route, 1) + norm == highest


def test_sgd_holds_nothing():
    import torch

    from vramplan.planner.memory.optimizer import state_groups, step_peak_bytes

    states, highest = _tracked(lambda model: torch.optim.SGD(model, lr=1e-3, foreach=False))
    assert states == 0 == len(state_groups("sgd", _groups(4), "cpu"))
    assert step_peak_bytes("sgd", _groups(4), "cpu", 1) == highest


@pytest.mark.parametrize(("dtype", "element_bytes"), [("float32", 4), ("bfloat16", 2)])
@pytest.mark.parametrize("loop", ["trainer", "plain"])
def test_adafactor_holds_and_borrows_what_is_counted(loop, dtype, element_bytes):
    from transformers.optimization import Adafactor

    from vramplan.planner.memory.optimizer import state_groups, step_peak_bytes
    from vramplan.planner.memory.static import total_bytes

    def make(model):
        parameters = list(model) if loop == "plain" else _split(model)
        return Adafactor(parameters, lr=1e-3, scale_parameter=False, relative_step=False)

    states, highest = _tracked(make, dtype=dtype)
    groups = _groups(element_bytes)
    assert total_bytes(state_groups("adafactor", groups, "cpu"), 1) == states
    norm = element_bytes  # held while the step runs; budgeted with the loop's scalars
    assert step_peak_bytes("adafactor", groups, "cpu", 1, loop=loop) + norm == highest


def test_foreach_holds_one_dtype_while_it_works_on_the_next():
    """torch.optim groups by dtype, and the name of one group's square roots is bound until the next's replace them."""
    import torch
    from torch import nn

    from vramplan.planner.memory.optimizer import step_peak_bytes
    from vramplan.planner.memory.static import Group
    from vramplan.planner.trace.tracker import Tracker, exact_lifetimes

    shapes = [(128, 64, "bfloat16"), (96, 64, "float32")]
    model = nn.ParameterList([nn.Parameter(torch.randn(r, c).to(getattr(torch, t))) for r, c, t in shapes])
    optimizer = torch.optim.AdamW(list(model), lr=1e-3, foreach=True)
    for _ in range(2):
        for parameter in model:
            parameter.grad = torch.randn_like(parameter)
        tracker = Tracker()
        known = [parameter.grad for parameter in model] + list(model)
        known += [value for state in optimizer.state.values() for value in state.values()]
        for tensor in known:
            tracker.see(tensor)
        before = len(tracker.storages)
        with exact_lifetimes(), tracker:
            optimizer.step()
            events = list(tracker.events)
    highest = _highest(tracker, events, before)
    groups = [Group(r * c, 2 if t == "bfloat16" else 4, 1, shape=(r, c)) for r, c, t in shapes]
    assert step_peak_bytes("adamw_torch", groups, "cuda", 1, loop="plain") == highest == 128 * 64 * 2 + 96 * 64 * 4


def test_lion_holds_one_state_of_a_byte():
    import bitsandbytes as bnb

    from vramplan.planner.memory.optimizer import state_groups
    from vramplan.planner.memory.static import total_bytes

    bnb.optim.GlobalOptimManager.get_instance().initialize()
    states, _ = _tracked(lambda model: bnb.optim.Lion8bit(list(model), lr=1e-3))
    shared = 1024 * (sum(1 for shape in SHAPES if len(shape) > 1) - 1)
    assert total_bytes(state_groups("lion_8bit", _groups(4), "cpu"), 1) == states - shared


def test_only_trainer_keeps_the_states_of_embeddings_in_fp32():
    """An embedding of 8192 elements: 2 x 4 bytes each under Trainer; by hand 2 x (1 byte + 4 per 256) and two maps."""
    from vramplan.planner.memory.optimizer import state_groups
    from vramplan.planner.memory.static import Group, total_bytes

    embedding = [Group(8192, 2, 1, embedding=True, shape=(128, 64))]
    assert total_bytes(state_groups("adamw_8bit", embedding, "cuda", loop="trainer"), 1) == 8 * 8192
    by_hand = total_bytes(state_groups("adamw_8bit", embedding, "cuda", loop="plain"), 1)
    assert by_hand == 2 * (8192 + 32 * 4) + 2 * 1024


def test_paged_states_of_large_tensors_are_not_in_pytorchs_memory():
    """bitsandbytes pages buffers from 100,000 elements on; the block maxima stay with PyTorch."""
    from vramplan.planner.memory.optimizer import managed_groups, state_groups
    from vramplan.planner.memory.static import Group, total_bytes

    groups = [Group(99_999, 2, 1), Group(102_400, 2, 1)]
    managed = managed_groups("paged_adamw_8bit", groups, "cuda")
    assert total_bytes(managed, 1) == 2 * 102_400
    counted = total_bytes(state_groups("paged_adamw_8bit", groups, "cuda"), 1)
    assert counted == 2 * 99_999 + 2 * 4 * (391 + 400) + 2 * 1024
    assert managed_groups("paged_adamw_8bit", groups, "cpu") == []


def test_eight_bit_adam_holds_what_is_counted():
    import bitsandbytes as bnb

    from vramplan.planner.memory.optimizer import state_groups
    from vramplan.planner.memory.static import total_bytes

    # overrides are kept by address for the whole process, and one of another test's may point here by now
    bnb.optim.GlobalOptimManager.get_instance().initialize()
    states, _ = _tracked(lambda model: bnb.optim.AdamW8bit(list(model), lr=1e-3))
    # the two quantile maps are one tensor each, shared by the parameters that point to them
    shared = 2 * 1024 * (sum(1 for shape in SHAPES if len(shape) > 1) - 1)
    assert total_bytes(state_groups("adamw_8bit", _groups(4), "cpu"), 1) == states - shared


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [32, 256])
@pytest.mark.parametrize("optimizer", ["adamw_8bit", "lion_8bit"])
def test_bitsandbytes_borrows_fp32_copies_on_the_cpu(optimizer, rows, dtype):
    """Its kernels are opaque to the tracker, so PyTorch's profiler is asked."""
    import bitsandbytes as bnb
    import torch
    from torch import nn
    from torch.profiler import ProfilerActivity, profile

    from vramplan.planner.memory.optimizer import step_peak_bytes
    from vramplan.planner.memory.static import Group

    bnb.optim.GlobalOptimManager.get_instance().initialize()
    parameter = nn.Parameter(torch.randn(rows, rows).to(getattr(torch, dtype)))
    made = {"adamw_8bit": bnb.optim.AdamW8bit, "lion_8bit": bnb.optim.Lion8bit}[optimizer]([parameter], lr=1e-3)
    for _ in range(2):
        parameter.grad = torch.randn_like(parameter)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            made.step()
    level = highest = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            level += event.nbytes()
            highest = max(highest, level)
    counted = step_peak_bytes(optimizer, [Group(rows * rows, parameter.element_size(), 1)], "cpu", 1)
    assert 0 <= highest - counted <= 64  # scalars
