"""What FSDP2 gathers and reduces together: the parameters of each decoder layer, of the embedding, of the tail, and the
rest, as accelerate wraps a model (accelerate/utils/fsdp_utils.py, fsdp2_prepare_model).

    layer   each module the model names in ``_no_split_modules``
    embed   the input embedding, unless the output head is tied to it
    tail    final norm, output head, and a tied embedding; stays whole from its forward to its backward. PEFT hides the
            final norm from accelerate, which then is part of the rest
    root    what is left; stays whole too

A shard is dim 0 cut into ``world`` equal parts, the last one padded (torch/distributed/fsdp/_fully_shard/
_fsdp_param.py, _init_sharded_param).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from vramplan.planner.dtypes import BYTES
from vramplan.planner.memory.groups import Group, round_up
from vramplan.planner.memory.static import count_static, is_quantized
from vramplan.planner.memory.static_methods import is_adaptable, is_head, unmatched_targets
from vramplan.planner.methods import Lora, Method, Qlora, quant_of, trains_base
from vramplan.planner.model_spec import ModelSpec, Weight
from vramplan.planner.training_setup import TrainingSetup


@dataclass(frozen=True)
class Parameter:
    """One parameter as FSDP2 holds it."""

    shape: tuple[int, ...]
    gathered_bytes: int
    """Of an element while it is whole."""
    stored_bytes: int
    """Of an element of the shard."""
    trains: bool
    adapter: bool = False
    decays: bool = True
    embedding: bool = False

    def shard_shape(self, world: int) -> tuple[int, ...]:
        """Of a rank's part, padding included.

        >>> Parameter((10, 3), 2, 2, True).shard_shape(4)
        (3, 3)
        """
        return (-(-self.shape[0] // world), *self.shape[1:])

    def shard_numel(self, world: int) -> int:
        """Elements of a rank's part, padding included."""
        return product(self.shard_shape(world))


@dataclass
class Unit:
    """Parameters that are gathered, and whose gradients are reduced, together."""

    parameters: list[Parameter] = field(default_factory=list)
    offloaded: bool = False
    """Shards are in host memory, and copied to the device to be gathered."""

    def whole_bytes(self, world: int, quantum_bytes: int) -> list[int]:
        """The parameters whole, padding included, one by one as the allocator rounds them."""
        return [
            round_up(world * each.shard_numel(world) * each.gathered_bytes, quantum_bytes) for each in self.parameters
        ]

    def copy_in_bytes(self, world: int) -> int:
        """Shards copied before they are gathered: those held in another dtype than they are used in, or elsewhere."""
        copied = [each for each in self.parameters if self.offloaded or each.gathered_bytes != each.stored_bytes]
        return sum(each.shard_numel(world) * each.gathered_bytes for each in copied)

    def gather_bytes(self, world: int) -> int:
        """The buffer all shards are gathered into."""
        return sum(world * each.shard_numel(world) * each.gathered_bytes for each in self.parameters)

    def reduce_bytes(self, world: int) -> int:
        """The buffer whole gradients are copied into; each rank gets one part in ``world`` of it back."""
        return sum(world * each.shard_numel(world) * each.gathered_bytes for each in self.trained)

    def reduced_bytes(self, world: int) -> int:
        """Sharded gradients as they come back."""
        return self.reduce_bytes(world) // world

    def gradient_bytes(self, world: int) -> int:
        """Sharded gradients as they are kept, in the shards' dtype: one tensor."""
        return sum(each.shard_numel(world) * each.stored_bytes for each in self.trained)

    @property
    def trained(self) -> list[Parameter]:
        return [each for each in self.parameters if each.trains]

    def __bool__(self) -> bool:
        return bool(self.parameters)


@dataclass
class Units:
    """A model's, in the order a step meets them."""

    root: Unit
    embed: Unit
    layers: list[Unit]
    tail: Unit
    tied: bool

    @property
    def all(self) -> list[Unit]:
        return [self.root, self.embed, *self.layers, self.tail]


def units_of(model: ModelSpec, setup: TrainingSetup, *, masters: bool = False, offloaded: bool = False) -> Units:
    """The units of a decoder.

    Args:
        setup: as one device would compute.
        masters: what trains is held in fp32, as accelerate does under mixed precision, but beside 4-bit weights.
        offloaded: shards are in host memory.
    """
    part = _Part(model, setup, masters and quant_of(setup.method) is None, offloaded)
    depth = 1 + max(max(weight.layers) for weight in model.weights if weight.layers)
    outside = [weight for weight in model.weights if not weight.layers]
    embed: list[Weight] = []
    tail: list[Weight] = []
    root: list[Weight] = []
    final_norm = _final_norm(outside)
    has_head = any(is_head(weight, model) for weight in outside)
    for weight in outside:
        in_tail = is_head(weight, model) or (weight is final_norm and trains_base(setup.method))
        if weight.module == "embedding" and _is_input(weight):
            (embed if has_head else tail).append(weight)
        else:
            (tail if in_tail else root).append(weight)
    return Units(
        root=part.unit(root),
        embed=part.unit(embed),
        layers=part.layers(depth),
        tail=part.unit(tail),
        tied=not has_head,
    )


def shard_groups(units: Iterable[Unit], world: int, *, trained: bool = False) -> list[Group]:
    """Every shard of a rank; ``trained``: only those that have gradients and optimizer states."""
    return [
        Group(each.shard_numel(world), each.stored_bytes, 1, each.decays, each.embedding, each.shard_shape(world))
        for unit in units
        for each in (unit.trained if trained else unit.parameters)
    ]


def product(sizes: Iterable[int]) -> int:
    """Of all of them."""
    out = 1
    for size in sizes:
        out *= size
    return out


def _is_input(weight: Weight) -> bool:
    return any(part in weight.name for part in ("embed_tokens", "wte", "embed_in", "word_embeddings"))


def _final_norm(outside: list[Weight]) -> Weight | None:
    """The last norm among the base model's children."""
    norms = [weight for weight in outside if weight.module == "norm"]
    return norms[-1] if norms else None


@dataclass(frozen=True)
class _Part:
    """What all units of a model share."""

    model: ModelSpec
    setup: TrainingSetup
    masters: bool
    offloaded: bool

    def layers(self, depth: int) -> list[Unit]:
        """A unit each; those of the same weights are one."""
        known: dict[tuple[str, ...], Unit] = {}
        out = []
        for layer in range(depth):
            here = [weight for weight in self.model.weights if layer in weight.layers]
            names = tuple(weight.name for weight in here)
            if names not in known:
                known[names] = self.unit([weight.model_copy(update={"layers": (layer,)}) for weight in here])
            out.append(replace(known[names]))
        return out

    def unit(self, weights: list[Weight]) -> Unit:
        """The parameters of some of the model's weights, adapters on them included."""
        used = BYTES[self.setup.precision.dtype]
        trains = trains_base(self.setup.method)
        parameters = []
        for weight in weights:
            if quant_of(self.setup.method) is not None and is_quantized(weight, self.model):
                # packed two to a byte in elements of quant_storage, (n, 1) (bitsandbytes/nn/modules.py, Params4bit)
                parameters.append(Parameter((-(-weight.numel // (2 * used)), 1), used, used, False))
                continue
            stored = 4 if self.masters and trains else used
            decays = weight.module != "norm" and not weight.name.endswith("bias")
            embedding = weight.module == "embedding"
            parameters.append(Parameter(weight.shape, used, stored, trains, False, decays, embedding))
        return Unit(parameters + ([] if trains else self._adapters(weights)), self.offloaded)

    def _adapters(self, weights: list[Weight]) -> list[Parameter]:
        part = self.model.model_copy(update={"weights": tuple(weights)})
        method = _on(part, self.setup.method)
        if method is None:
            return []
        groups = count_static(part, self.setup.model_copy(update={"method": method})).adapter
        return [
            Parameter(
                group.shape or (group.numel,),
                group.element_bytes,
                4 if self.masters else group.element_bytes,
                True,
                True,
                group.decays,
                group.embedding,
            )
            for group in groups
            for _ in range(group.count)
        ]


def _on(part: ModelSpec, method: Method) -> Method | None:
    """The method on some of a model's weights: without the targets it has elsewhere; None: it has none here."""
    if not isinstance(method, (Lora, Qlora)):
        return None
    if not any(is_adaptable(weight) and not is_head(weight, part) for weight in part.weights):
        return None
    if method.target_modules == "all-linear":
        return method
    missing = unmatched_targets(part, method.target_modules)
    here = tuple(target for target in method.target_modules if target not in missing)
    return method.model_copy(update={"target_modules": here}) if here else None
