"""Which parameters of a module stage 3 gathers as it runs: by the module's name, as labels of programs have it."""

from vramplan.planner.memory.static_methods import is_head, matches
from vramplan.planner.methods import Lora, Qlora, trains_base
from vramplan.planner.model_spec import ModelSpec, Weight
from vramplan.planner.training_setup import TrainingSetup

_OUTER = ("base_model", "base_layer", "model", "transformer")
HEAD = "lm_head"
ADAPTERS = (".lora_A.default", ".lora_B.default")


class Modules:
    """A model's modules with tensors of more elements than always stay whole."""

    def __init__(self, model: ModelSpec, setup: TrainingSetup, persistent: int) -> None:
        self.trains_base = trains_base(setup.method)
        self._outside: dict[str, list[int]] = {}
        self._layers: dict[str, list[tuple[frozenset[int], int]]] = {}
        self._persistent = persistent
        for weight in model.weights:
            self._add(weight, weight.name.rpartition(".")[0], weight.numel)
            self._add_adapter(weight, model, setup)
        if not any(is_head(weight, model) for weight in model.weights):
            tied = next(weight for weight in model.weights if weight.module == "embedding")
            self._outside[HEAD] = [tied.numel]

    def sizes(self, module: str, layer: int | None) -> list[int]:
        """Elements of each of its parameters."""
        if layer is None:
            return self._outside.get(module, [])
        return [numel for layers, numel in self._layers.get(module, ()) if layer in layers]

    def largest(self, module: str, layer: int | None) -> int:
        """Elements of its largest."""
        return max(self.sizes(module, layer), default=0)

    def largest_of(self, layer: int | None) -> str | None:
        """The module of a layer that is largest, if there is one."""
        found = [module for module in self._layers if self.sizes(module, layer)]
        return max(found, key=lambda module: sum(self.sizes(module, layer)), default=None)

    def is_adapter(self, module: str) -> bool:
        """Whether it is LoRA's."""
        return module.endswith(ADAPTERS)

    def _add(self, weight: Weight, path: str, numel: int) -> None:
        if numel <= self._persistent:
            return
        module = module_name(path)
        if weight.layers:
            self._layers.setdefault(module, []).append((frozenset(weight.layers), numel))
        else:
            self._outside.setdefault(module, []).append(numel)

    def _add_adapter(self, weight: Weight, model: ModelSpec, setup: TrainingSetup) -> None:
        method = setup.method
        if not isinstance(method, Lora | Qlora) or weight.module != "linear" or len(weight.shape) != 2:
            return
        if weight.name.endswith("bias") or is_head(weight, model) or not matches(weight, model, method.target_modules):
            return
        path = weight.name.rpartition(".")[0]
        rows, columns = weight.shape
        for name, numel in zip(ADAPTERS, (method.r * columns, rows * method.r), strict=True):
            self._add(weight, path + name, numel)


def module_of(label: str) -> str:
    """The module of a program's label.

    >>> module_of("model.layers.mlp.up_proj|mm|(S, f)")
    'layers.mlp.up_proj'
    """
    return module_name(label.partition("|")[0])


def module_name(path: str) -> str:
    """A module's path without numbers and what is around the model.

    >>> module_name("base_model.model.model.layers.3.self_attn.q_proj.base_layer")
    'layers.self_attn.q_proj'
    """
    parts = [part for part in path.split(".") if not part.isdigit() and part not in _OUTER and part != "{layer}"]
    return ".".join(parts)
