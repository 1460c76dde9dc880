"""Bottleneck adapters as a PEFT tuner: the one PEFT does not have.

Each wraps the linear that ends half a layer, before the residual is added (Houlsby et al., 2019, section 2.1):

    y = W x;   y + up(f(down(y)))       down: h -> b, up: b -> h, both with biases, up zero at the start

``houlsby`` puts one after attention and one after the MLP, ``pfeiffer`` one after the MLP (Pfeiffer et al., 2021,
section 3). PEFT saves, loads, disables, switches and unloads them like its own; merging is refused, because they are
not linear.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import PeftType, register_peft_method
from torch import nn

NAME = "BOTTLENECK"
NON_LINEARITIES = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}
_NO_MERGE = "bottleneck adapters are not linear: they cannot be merged into the weights. Keep them beside the base"


def _add_peft_type() -> None:
    """PEFT looks a tuner up by a member of its enumeration, which has no way to take one from outside."""
    if NAME in PeftType.__members__:
        return
    member: Any = str.__new__(PeftType, NAME)
    member._name_, member._value_, member._sort_order_ = NAME, NAME, len(PeftType)
    PeftType._member_names_.append(NAME)
    PeftType._member_map_[NAME] = member
    PeftType._value2member_map_[NAME] = member
    type.__setattr__(PeftType, NAME, member)


_add_peft_type()


@dataclass
class BottleneckConfig(PeftConfig):  # type: ignore[misc]  # PEFT is not typed
    """What adapter_config.json holds of a bottleneck adapter."""

    adapter_kind: str = "houlsby"
    bottleneck_size: int = 64
    non_linearity: str = "gelu"
    target_modules: list[str] = field(default_factory=list)
    exclude_modules: list[str] | None = None
    modules_to_save: list[str] | None = None
    layers_to_transform: None = None
    layers_pattern: None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType[NAME]
        if self.non_linearity not in NON_LINEARITIES:
            raise ValueError(f"non_linearity {self.non_linearity} is none of {', '.join(NON_LINEARITIES)}")


class BottleneckLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]  # as above
    """A linear and the bottlenecks that follow it."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ()

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.non_linearity: dict[str, nn.Module] = {}
        inner: Any = self.get_base_layer()
        self.out_features = inner.out_features if hasattr(inner, "out_features") else inner.nf  # Conv1D
        self.in_features = self.out_features
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add one more adapter; it changes nothing until it is trained."""
        self.bottleneck_down[adapter_name] = nn.Linear(self.out_features, config.bottleneck_size)
        up = nn.Linear(config.bottleneck_size, self.out_features)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        self.bottleneck_up[adapter_name] = up
        self.non_linearity[adapter_name] = NON_LINEARITIES[config.non_linearity]()
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        y: torch.Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return y
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                down: Any = self.bottleneck_down[name]
                inside = self.non_linearity[name](down(y.to(down.weight.dtype)))
                y = y + self.bottleneck_up[name](inside).to(y.dtype)
        return y

    def merge(self, *args: Any, **kwargs: Any) -> None:
        """Refused."""
        raise ValueError(_NO_MERGE)

    def unmerge(self) -> None:
        """Refused."""
        raise ValueError(_NO_MERGE)


class BottleneckModel(BaseTuner):  # type: ignore[misc]  # as above
    """PEFT's tuner over a model's target linears."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **options: Any,
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        raise ValueError(_NO_MERGE)


register_peft_method(
    name=NAME.lower(), config_cls=BottleneckConfig, model_cls=BottleneckModel, prefix=BottleneckModel.prefix
)
