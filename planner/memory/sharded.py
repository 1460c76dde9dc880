"""The price of one rank where several GPUs train together: DDP, FSDP2, and ZeRO's stages.

    ddp     everything of one device, and buckets: a second copy of all gradients, 1 MiB first, then 25 MiB each
            (torch/nn/parallel/distributed.py; gradient_as_bucket_view is off in accelerate)
    fsdp    shards of weights, gradients and states; the step with what FSDP2 gathers and reduces (fsdp_step.py)
    zero    DeepSpeed's stages (zero.py)

The rank that is priced is the first: where a parameter's rows do not divide, it has the most.
"""

from dataclasses import replace

from vramplan.planner.errors import UnsupportedError
from vramplan.planner.memory import optimizer
from vramplan.planner.memory.allocator import CachingAllocator, parse_alloc_conf
from vramplan.planner.memory.because import reasons
from vramplan.planner.memory.budget import Component, PhaseName
from vramplan.planner.memory.expand import expand
from vramplan.planner.memory.fsdp_step import GATHER, REDUCE, fsdp_replay
from vramplan.planner.memory.groups import Group, round_up, total_bytes
from vramplan.planner.memory.many_gpus import ManyGpus
from vramplan.planner.memory.one_device import kept_setup
from vramplan.planner.memory.price import Pricing, Question
from vramplan.planner.memory.replay import Replay, Replayed
from vramplan.planner.memory.static import StaticMemory
from vramplan.planner.memory.units import Units, shard_groups, units_of
from vramplan.planner.memory.zero import ZeroPricing
from vramplan.planner.methods import SHARDED_METHODS, quant_of, trainable_blocks, trains_base
from vramplan.planner.programs.program import Alloc, Program, Size, stack_name
from vramplan.planner.units import MIB

BUCKET_BYTES = 25 * MIB
FIRST_BUCKET_BYTES = MIB
"""bucket_cap_mb and dist._DEFAULT_FIRST_BUCKET_BYTES."""
BROADCAST_BYTES = 250 * MIB
"""DDP's constructor sends the first rank's model to the others in flat pieces of this size (broadcast_bucket_size)."""
_SHARDED_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd")


def pricing_of(question: Question, program: Program) -> Pricing:
    """The price of one device, or of one rank; ``check_sharding`` says whether there is one."""
    sharding = question.setup.sharding
    return Pricing(question, program) if sharding == "none" else KINDS[sharding](question, program)


def check_sharding(question: Question) -> None:
    """What is understood and not priced with several GPUs.

    Raises:
        UnsupportedError: with what to change.
    """
    setup, sharding = question.setup, question.setup.sharding
    if sharding in ("none", "ddp"):
        return
    if setup.loop == "plain" or question.workload.task != "causal-lm":
        what = f"--loop {setup.loop}" if setup.loop == "plain" else f"--task {question.workload.task}"
        raise UnsupportedError(f"--sharding {sharding} with {what} is not priced yet", remedy="use --sharding ddp")
    if not isinstance(setup.method, SHARDED_METHODS):
        raise UnsupportedError(
            f"--sharding {sharding} with --method {setup.method.kind} is not priced yet",
            remedy="use --sharding ddp, or --method full, lora or qlora",
        )
    if trainable_blocks(setup.method) is not None:
        raise UnsupportedError(
            f"--sharding {sharding} with --trainable-blocks is not priced yet", remedy="use --sharding ddp"
        )
    if quant_of(setup.method) == "int8" or getattr(setup.method, "use_dora", False):
        what = "--use-dora" if getattr(setup.method, "use_dora", False) else "--quant int8"
        raise UnsupportedError(f"--sharding {sharding} with {what} is not priced yet", remedy="use --sharding ddp")
    if setup.optimizer not in _SHARDED_OPTIMIZERS:
        raise UnsupportedError(
            f"--sharding {sharding} with --optimizer {setup.optimizer} is not priced yet",
            remedy="use --optimizer adamw_torch_fused, whose states are sharded",
        )
    if any(stack_name(weight.name) for weight in question.model.weights):
        raise UnsupportedError(f"--sharding {sharding} prices decoders alone", remedy="use --sharding ddp")


class DdpPricing(ManyGpus):
    """One device's price and the buckets."""

    def __init__(self, question: Question, program: Program) -> None:
        super().__init__(question, program)
        self.buckets = buckets(self.static.trainable)
        self.because["communication"] = f"DDP's {len(self.buckets)} buckets: a second copy of the gradients"
        self.because["temporaries"] += "; while loading, the piece of the model that is broadcast"

    def base(self, *, gradients: bool) -> dict[Component, int]:
        held = total_bytes([Group(size, 1, 1) for size in self.buckets], self.question.quantum_bytes)
        return super().base(gradients=gradients) | {"communication": held}

    def still_parts(self) -> dict[PhaseName, dict[Component, int]]:
        found = super().still_parts()
        load = found["load"]
        whole = load["weights"] + load["adapter"]
        load["temporaries"] = max(load.get("temporaries", 0), min(whole, BROADCAST_BYTES))
        return found


class FsdpPricing(ManyGpus):
    """Shards, and FSDP2's step."""

    def __init__(self, question: Question, program: Program) -> None:
        super().__init__(question, program)
        setup, quantum = self.question.setup, self.question.quantum_bytes
        self.offloaded = question.setup.offload == "all"
        masters = question.setup.precision.mixed_precision != "no"
        self.units: Units = units_of(self.question.model, setup, masters=masters, offloaded=self.offloaded)
        alone, self.static = self.static, self._shards()
        trainable = self.static.trainable if not self.offloaded else []
        self.states = optimizer.state_groups(setup.optimizer, trainable, self.question.route, loop=setup.loop)
        self.step_peak = optimizer.step_peak_bytes(
            setup.optimizer, trainable, self.question.route, quantum, loop=setup.loop
        )
        self.replay = fsdp_replay(
            self.replay,
            self.units,
            self.world,
            whole_model=trains_base(setup.method),
            standard_loss=setup.loss == "standard",
            offloaded=self.offloaded,
        )
        self.replayed: Replayed = self.replay.run()
        self.because |= self._reasons(reasons(question.model, kept_setup(question.setup), alone, 0))

    def _shards(self) -> StaticMemory:
        """This rank's tensors; quantisation states are no parameters, and every rank has them all."""
        parts = [each for unit in self.units.all for each in unit.parameters]
        shards = shard_groups(self.units.all, self.world)
        on_device = [] if self.offloaded else list(zip(shards, parts, strict=True))
        return StaticMemory(
            weights=[group for group, each in on_device if not each.adapter],
            quantization_state=self.static.quantization_state,
            adapter=[group for group, each in on_device if each.adapter],
            trainable=shard_groups(self.units.all, self.world, trained=True),
            quantized_params=self.static.quantized_params,
        )

    def base(self, *, gradients: bool) -> dict[Component, int]:
        """FSDP2 keeps the gradients of a unit in one tensor."""
        quantum = self.question.quantum_bytes
        sizes = [unit.gradient_bytes(self.world) for unit in self.units.all]
        held = sum(round_up(size, quantum) for size in sizes) if gradients and not self.offloaded else 0
        return super().base(gradients=gradients) | {"gradients": held}

    def still_parts(self) -> dict[PhaseName, dict[Component, int]]:
        """Loading sends one parameter at a time (fsdp2_load_full_state_dict), or moves one unit at a time where it is
        quantised; saving makes one parameter whole at a time."""
        found = super().still_parts()
        found.pop("merge", None)
        quantum = self.question.quantum_bytes
        wholes = [unit.whole_bytes(self.world, quantum) for unit in self.units.all if unit]
        largest = max(max(sizes) for sizes in wholes)
        quantised = quant_of(self.question.setup.method) is not None
        found["load"]["temporaries"] = max(map(sum, wholes)) if quantised else largest
        found["save"]["temporaries"] = found["save"].get("temporaries", 0) + largest
        return found

    def _reserved_over(self, steps: list[Replay], limit_bytes: int | None = None) -> int:
        """FSDP2 gathers and reduces on streams of their own, and a block of one stream is never used by another."""
        if self.question.route == "cpu":
            return super()._reserved_over(steps, limit_bytes)
        aside = sum(self._stream_bytes(start) for start in (GATHER, REDUCE))
        left = None if limit_bytes is None else limit_bytes - aside
        return super()._reserved_over([without(step, (GATHER, REDUCE)) for step in steps], left) + aside

    def _stream_bytes(self, start: str) -> int:
        """What the labels that begin so reserve: the buffers come and go alike in every step."""
        allocator = CachingAllocator(parse_alloc_conf(self.question.setup.alloc_conf))
        storages, changes, _ = expand(self.replay)
        alive = {}
        for change in changes:
            index = change if change >= 0 else ~change
            if storages[index].label.startswith(start):
                if change >= 0:
                    alive[index] = allocator.take(storages[index].size_bytes)
                else:
                    allocator.give(alive.pop(index))
        return allocator.max_reserved_bytes

    def _reasons(self, alone: dict[Component, str]) -> dict[Component, str]:
        """Of what is sharded, beside what one device would hold, in the dtypes it is kept in."""
        world = self.world
        shard = "in host memory, pinned" if self.offloaded else f"1/{world} of each tensor"
        because: dict[Component, str] = {
            "weights": f"{alone['weights']}; {shard}",
            "adapter": f"{alone['adapter']}; {shard}",
            "gradients": f"{alone['gradients']}; {shard}, reduced after every micro batch",
            "optimizer": f"{alone['optimizer']}; {shard}",
            "gathered": "one layer whole and the next gathered ahead; embedding and head whole while they are used",
            "communication": "a layer's whole gradients on their way, while the layer before makes its own",
        }
        if self.static.quantization_state:
            because["quantization_state"] = f"{self.because['quantization_state']}; not sharded: every rank has all"
        return because


def without(replay: Replay, starts: tuple[str, ...]) -> Replay:
    """The step with the tensors whose labels begin so left weightless."""
    program = replay.program
    gone = {number for number, label in enumerate(program.labels) if label.startswith(starts)}
    sizes = list(program.sizes)
    for template in program.templates:
        for entry in template:
            if isinstance(entry, Alloc) and entry.label in gone:
                sizes[entry.size] = Size(0)
    return Replay(replace(program, sizes=tuple(sizes)), replay.at)


def buckets(trainable: list[Group]) -> list[int]:
    """Bytes of DDP's buckets: gradients from the last parameter to the first, closed once full
    (torch/csrc/distributed/c10d/reducer.cpp, compute_bucket_assignment_by_size).

    >>> buckets([Group(1024 * 1024, 4, 8)])
    [4194304, 29360128]
    """
    sizes = [group.numel * group.element_bytes for group in trainable for _ in range(group.count)]
    out = [0]
    for size in reversed(sizes):
        out[-1] += size
        if out[-1] >= (FIRST_BUCKET_BYTES if len(out) == 1 else BUCKET_BYTES):
            out.append(0)
    return [size for size in out if size]


KINDS: dict[str, type[ManyGpus]] = {
    "ddp": DdpPricing,
    "fsdp": FsdpPricing,
    "zero1": ZeroPricing,
    "zero2": ZeroPricing,
    "zero3": ZeroPricing,
}
