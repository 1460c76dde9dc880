"""Layer-wise learning rates part an optimizer's groups; foreach then borrows for the largest of more, smaller ones."""

import pytest

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

METHODS = {
    "lower layers": {"lower_layers": 1, "lower_learning_rate": 1e-5},
    "layers and head": {"lr_groups": "embed_tokens=1e-6,layers.0-0=5e-6,layers.1-1=2e-5,lm_head=2e-5"},
    "one linear of every layer": {"lr_groups": "gate_proj=1e-5,lm_head=1e-4"},
    "nothing left": {"lr_groups": "embed_tokens=1e-6,layers.0-1=5e-6,model.norm=1e-5,lm_head=2e-5"},
}
RATES = {
    "lower layers": [1e-3, 1e-3, 1e-5, 1e-5],
    "layers and head": [1e-3, 1e-3, 1e-6, 5e-6, 5e-6, 2e-5, 2e-5, 2e-5],
    "one linear of every layer": [1e-3, 1e-3, 1e-5, 1e-4],
    "nothing left": [1e-3, 1e-3, 1e-6, 5e-6, 5e-6, 1e-5, 2e-5],
}
"""Of the live groups: what decays and what does not at the base rate, then both of each rate where it has both."""


def _method(name):
    from vramplan.planner.layerwise import parse_groups
    from vramplan.planner.methods import Layerwise

    options = METHODS[name]
    if "lr_groups" not in options:
        return Layerwise(**options)
    return Layerwise(lower_layers=None, lower_learning_rate=None, lr_groups=parse_groups(options["lr_groups"]))


def _model(spec):
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = {name: value for name, value in spec.config.items() if name != "model_type"}
    return AutoModelForCausalLM.from_config(LlamaConfig(**config))


def _decays_apart(model):
    """As Trainer parts them: get_decay_parameter_names leaves out norms and biases."""
    decays = [parameter for name, parameter in model.named_parameters() if "norm" not in name]
    others = [parameter for name, parameter in model.named_parameters() if "norm" in name]
    return [{"params": decays, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]


def _highest_of_a_step(model, optimizer):
    import torch

    from tests.trace.test_optimizer_steps import _highest
    from vramplan.planner.trace.tracker import Tracker, exact_lifetimes

    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        tracker = Tracker()
        for parameter in model.parameters():
            tracker.see(parameter)
            tracker.see(parameter.grad)
            for value in optimizer.state[parameter].values():
                if isinstance(value, torch.Tensor):
                    tracker.see(value)
        value = None  # Adafactor replaces a state, which dies only where nobody else holds it
        before = len(tracker.storages)
        with exact_lifetimes(), tracker:
            optimizer.step()
            events = list(tracker.events)
    return _highest(tracker, events, before)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("how", ["foreach", "one by one", "adafactor"])
def test_groups_by_rate_borrow_what_is_counted(how, name):
    torch = pytest.importorskip("torch")
    from transformers.optimization import Adafactor

    from tests.fakes import make_model_spec
    from vramplan.executor.methods.layerwise import part_groups
    from vramplan.planner.memory.optimizer import step_peak_bytes
    from vramplan.planner.memory.static import count_static
    from vramplan.planner.training_setup import Precision, TrainingSetup

    spec, method = make_model_spec(), _method(name)
    model = _model(spec)
    if how == "adafactor":
        optimizer = Adafactor(_decays_apart(model), lr=1e-3, scale_parameter=False, relative_step=False)
    else:
        optimizer = torch.optim.AdamW(_decays_apart(model), lr=1e-3, foreach=how == "foreach")
    part_groups(optimizer, model, method)
    assert [group["lr"] for group in optimizer.param_groups] == RATES[name]
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len({id(parameter) for parameter in grouped}) == len(list(model.parameters()))

    counted = count_static(spec, TrainingSetup(method=method, precision=Precision(dtype="fp32"))).trainable
    kind, route = {"foreach": ("adamw_torch", "cuda"), "one by one": ("adamw_torch", "cpu")}.get(how, (how, "cpu"))
    assert step_peak_bytes(kind, counted, route, 1) == _highest_of_a_step(model, optimizer)


def test_foreach_borrows_less_for_groups_than_for_the_whole():
    from tests.fakes import make_model_spec
    from vramplan.planner.memory.optimizer import step_peak_bytes
    from vramplan.planner.memory.static import count_static
    from vramplan.planner.methods import Full
    from vramplan.planner.training_setup import Precision, TrainingSetup

    def borrowed(method):
        setup = TrainingSetup(method=method, precision=Precision(dtype="fp32"))
        return step_peak_bytes("adamw_torch", count_static(make_model_spec(), setup).trainable, "cuda", 1)

    head_and_embedding = 2 * 256 * 64
    layer = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 176 * 64
    assert borrowed(Full()) == 4 * (head_and_embedding + 2 * layer)
    assert borrowed(_method("lower layers")) == 4 * (256 * 64 + layer)
    assert borrowed(_method("layers and head")) == 4 * layer
