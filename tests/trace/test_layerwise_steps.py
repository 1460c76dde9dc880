"""Layer-wise learning rates part an optimizer's groups; foreach then borrows for the largest of more, smaller ones."""

import pytest

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(("route", "options"), [("cuda", {"foreach": True}), ("cpu", {"foreach": False})])
def test_groups_by_rate_borrow_what_is_counted(route, options):
    torch = pytest.importorskip("torch")
    from tests.fakes import make_model_spec
    from tests.trace.test_optimizer_steps import _highest
    from vramplan.executor.methods.layerwise import part_groups
    from vramplan.planner.memory.optimizer import step_peak_bytes
    from vramplan.planner.memory.static import count_static
    from vramplan.planner.methods import Full, Layerwise
    from vramplan.planner.trace.tracker import Tracker
    from vramplan.planner.training_setup import Precision, TrainingSetup

    spec = make_model_spec()
    model = torch.nn.ParameterDict()
    names = {}
    for name, weight in spec.tensors():
        key = name.replace(".", "_")
        model[key] = torch.nn.Parameter(torch.zeros(weight.shape))
        names[key] = name
    decays = [key for key, name in names.items() if "norm" not in name]
    groups = [
        {"params": [model[key] for key in names if key in decays], "weight_decay": 0.01},
        {"params": [model[key] for key in names if key not in decays], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, **options)
    method = Layerwise(lower_layers=1, lower_learning_rate=1e-5)

    class Named:
        def named_parameters(self):
            return [(names[key], parameter) for key, parameter in model.items()]

    part_groups(optimizer, Named(), method)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-3, 1e-5, 1e-5]
    for _ in range(2):
        for parameter in model.values():
            parameter.grad = torch.ones_like(parameter)
        tracker = Tracker()
        for parameter in model.values():
            tracker.see(parameter)
            tracker.see(parameter.grad)
        for state in optimizer.state.values():
            for tensor in state.values():
                tracker.see(tensor)
        before, events = len(tracker.storages), len(tracker.events)
        with tracker:
            optimizer.step()
    counted = count_static(spec, TrainingSetup(method=method, precision=Precision(dtype="fp32"))).trainable
    highest = _highest(tracker, tracker.events[events:], before)
    assert step_peak_bytes("adamw_torch", counted, route, 1) == highest
    whole = count_static(spec, TrainingSetup(method=Full(), precision=Precision(dtype="fp32"))).trainable
    assert step_peak_bytes("adamw_torch", whole, "cuda", 1) > step_peak_bytes("adamw_torch", counted, "cuda", 1)
