"""A method on one model in numbers that need no memory program: what trains, what stands before the first token, what
is written.

    bytes a parameter   (weights + quantisation state + adapter + gradients + optimizer states) / parameters of the base
    checkpoint          every weight where the base's own weights train, else the adapter; of p-tuning the embeddings it
                        makes, not the network (peft/utils/save_and_load.py, get_peft_model_state_dict)
    key/value cache     virtual tokens x layers x 2 x K d numbers a row, in the base's dtype
"""

from vramplan.planner.device import Route
from vramplan.planner.dtypes import BYTES
from vramplan.planner.memory.optimizer import state_groups
from vramplan.planner.memory.static import count_static, total_bytes
from vramplan.planner.memory.static_methods import hidden_size, prefix_layers, prefix_width
from vramplan.planner.methods import Ptuning, trains_base, virtual_tokens
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.values import Value


class MethodCounts(Value):
    """One method on one model."""

    trainable_params: int
    total_params: int
    """Of the base, adapters apart."""
    static_bytes: int
    checkpoint_bytes: int
    """Of the result, tensors alone."""
    cache_bytes_per_row: int
    """What virtual tokens add to the key/value cache of every row when the model is used."""

    @property
    def trainable_share(self) -> float:
        return self.trainable_params / self.total_params

    @property
    def bytes_per_param(self) -> float:
        return self.static_bytes / self.total_params


def count_method(model: ModelSpec, setup: TrainingSetup, *, route: Route = "cuda") -> MethodCounts:
    """Count a method.

    Raises:
        UsageError: the method does not suit the model.
    """
    static = count_static(model, setup)
    states = state_groups(setup.optimizer, static.trainable, route)
    parts = (static.weights, static.quantization_state, static.adapter, static.trainable, states)
    method, size = setup.method, BYTES[setup.precision.adapter_dtype]
    checkpoint = total_bytes(static.weights if trains_base(method) else static.adapter, 1)
    if isinstance(method, Ptuning):
        checkpoint = method.num_virtual_tokens * hidden_size(model.config) * size
    tokens = virtual_tokens(method)
    cached = tokens * prefix_width(model.config, prefix_layers(model)) if tokens else 0
    return MethodCounts(
        trainable_params=static.trainable_params,
        total_params=model.total_params,
        static_bytes=sum(total_bytes(part, 1) for part in parts),
        checkpoint_bytes=checkpoint,
        cache_bytes_per_row=cached * BYTES[setup.precision.dtype],
    )
