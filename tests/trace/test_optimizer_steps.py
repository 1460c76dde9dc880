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
    level = highest = 0
    for event in events:
        if event.storage >= before:
            size = tracker.storages[event.storage].nbytes
            level += size if event.kind == "alloc" else -size
            highest = max(highest, level)
    return states, highest


def _groups(element_bytes):
    from math import prod

    from vramplan.planner.memory.static import Group

    return [Group(prod(shape), element_bytes, 1, decays=len(shape) > 1) for shape in SHAPES]


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
