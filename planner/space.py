"""Every setup worth considering under what a person gave: methods x checkpointing x loss x precision x optimizer x
micro batch x rank, as far as the rules of ``resolve`` allow.

What was given is never varied, but a micro batch above 1 is also tried at 1 with the same sequences a step. Options are
resolved once for each combination that has rules of its own; what only scales (optimizer, rank, micro batches above
1) is put in afterwards. Ranks above the suggested one are left out: nothing says they learn more, and they cost more.

Over several GPUs bounds take long, so less is varied: the method (``MAIN_METHODS``), the micro batch, and how the
GPUs share the work.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from vramplan.planner.device import Device
from vramplan.planner.errors import UnsupportedError, UsageError
from vramplan.planner.methods import Method
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.resolve import Resolved, given_for_method, resolve
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.workload import RowLengths, Workload

MAIN_METHODS = ("lora", "qlora", "full")
"""What must be priced for an answer; the others are searched where their memory programs are here already."""
SEARCHED_METHODS = (
    *MAIN_METHODS,
    "adapter",
    "layerwise",
    "ia3",
    "bitfit",
    "prefix",
    "ptuning",
    "prompt",
    "ln-tuning",
)
OPTIMIZERS = ("adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "adafactor", "lion_8bit", "sgd")
SHARDINGS: tuple[dict[str, Any], ...] = (
    {"sharding": "ddp"},
    {"sharding": "zero2"},
    {"sharding": "zero3"},
    {"sharding": "fsdp", "offload": "all"},
)
"""How several GPUs may share the work, beside the sharding asked for."""
AXES = (
    "gradient_checkpointing",
    "micro_batch",
    "optimizer",
    "loss",
    "sharding",
    "offload",
    "dtype",
    "mixed_precision",
    "rank",
    "alpha",
)
"""What is varied, from the change that costs a person least to the one that costs most."""
LEAST_RANK = 8
LARGEST_MICRO_BATCH = 64
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """What the setups are for."""

    model: ModelSpec
    device: Device | None
    num_examples: int | None = None
    rows: RowLengths | None = None

    def resolve(self, given: Options) -> Resolved:
        """A complete setup; see ``planner.resolve.resolve``."""
        return resolve(given, self.model, self.device, num_examples=self.num_examples, rows=self.rows)


@dataclass(frozen=True)
class Cell:
    """One setup of the space."""

    given: Options
    """What makes it, as ``resolve`` takes it."""
    workload: Workload
    setup: TrainingSetup
    changes: tuple[str, ...]
    """Of ``AXES``: those whose value is not the one asked for, or the default."""

    @property
    def kind(self) -> str:
        """Its method."""
        return self.setup.method.kind

    @cached_property
    def regime(self) -> Hashable:
        """What decides the memory program among the cells of one space; see ``memory.structure.program_key``."""
        setup = self.setup
        method = tuple(item for item in vars(setup.method).items() if item[0] not in ("r", "lora_alpha"))
        precision = tuple(vars(setup.precision).values())
        one_row = setup.micro_batch_size == 1
        return method, precision, setup.gradient_checkpointing, setup.loss, setup.padding, one_row


@dataclass(frozen=True)
class Space:
    """The cells, in a fixed order, and the methods that have none."""

    cells: tuple[Cell, ...]
    asked: Mapping[str, Cell]
    """The setup of each method as it was asked for, nothing varied."""
    failures: Mapping[str, UsageError]


def space_of(given: Options, subject: Subject, rank: int) -> Space:
    """Every cell under the options a person gave.

    Args:
        rank: the suggested one, for methods that have a rank where none was given.

    Raises:
        UsageError: an option makes no sense.
    """
    given = _normal(given)
    named = given.get("method")
    several = has_several_gpus(given)
    cells: list[Cell] = []
    asked: dict[str, Cell] = {}
    failures: dict[str, UsageError] = {}
    for method in (MAIN_METHODS if several else SEARCHED_METHODS) if named is None else (named,):
        wishes = given_for_method(given, method) if named is None else dict(given)
        suggests = method in ("lora", "qlora") and "rank" not in wishes
        if suggests:
            wishes |= {"rank": rank, "alpha": wishes.get("alpha", 2 * rank)}
        try:
            ranks = _ranks(rank) if suggests else [{}]
            own = tuple(_sharded_cells(wishes, subject) if several else _cells(wishes, subject, ranks))
        except UsageError as error:
            if method in (*MAIN_METHODS, named) and not isinstance(error, UnsupportedError):
                raise
            failures[method] = error
            continue
        asked[method] = own[0]
        cells += own
    return Space(tuple(cells), asked, failures)


def has_several_gpus(given: Options) -> bool:
    """Whether the options are of several GPUs."""
    return int(given.get("gpus") or 1) * int(given.get("nodes") or 1) > 1


def _normal(given: Options) -> dict[str, Any]:
    normal = {name: value for name, value in given.items() if value is not None}
    if "quant" in normal and normal.get("method", "lora") == "lora":
        normal["method"] = "qlora"
    if normal.get("method") == "bottleneck":
        normal["method"] = "adapter"
    return normal


def _cells(wishes: Options, subject: Subject, ranks: Sequence[Options]) -> Iterator[Cell]:
    """Every cell of one method, the one asked for first."""
    asked = subject.resolve(wishes)
    batches = _micro_batches(wishes, asked)
    with_rules = product(
        (batches[:1], batches[1:]), _checkpointing(wishes, asked), _losses(wishes, asked), _precisions(wishes, asked)
    )
    for alike, *rules in with_rules:
        changed = {name: value for rule in rules for name, value in rule.items()}
        if not alike:
            continue
        try:
            resolved = subject.resolve({**wishes, **changed, **alike[0]})
        except UsageError:  # a combination that the rules forbid; the one asked for has passed
            continue
        methods = [_with_rank(resolved.setup.method, rank) for rank in ranks]
        for batch, optimizer, (rank, method) in product(alike, _optimizers(wishes), zip(ranks, methods, strict=True)):
            yield _cell(wishes, resolved, method, {**changed, **batch, **optimizer, **rank})


def _sharded_cells(wishes: Options, subject: Subject) -> Iterator[Cell]:
    """Every cell of one method over several GPUs, the one asked for first."""
    asked = subject.resolve(wishes)
    given = wishes.get("sharding") is not None or wishes.get("offload") is not None
    seen = set()
    for shared in ({}, *(() if given else SHARDINGS)):
        try:
            resolved = subject.resolve({**wishes, **shared})
        except UsageError:  # not with this method, or not priced
            continue
        if (resolved.setup.sharding, resolved.setup.offload) in seen:
            continue
        seen.add((resolved.setup.sharding, resolved.setup.offload))
        for batch in _micro_batches(wishes, asked):
            yield _cell(wishes, resolved, resolved.setup.method, {**shared, **batch})


def _with_rank(method: Method, rank: Options) -> Method:
    return method.model_copy(update={"r": rank["rank"], "lora_alpha": rank["alpha"]}) if rank else method


def _cell(wishes: Options, resolved: Resolved, method: Method, changed: Options) -> Cell:
    """A cell from one that was resolved and differs from it in optimizer, method's rank and micro batch alone."""
    setup, workload, given = resolved.setup, resolved.workload, {**wishes, **changed}
    new: dict[str, Any] = {}
    if "optimizer" in changed:
        new["optimizer"] = changed["optimizer"]
    if method is not setup.method:
        new["method"] = method
    micro_batch = given.get("micro_batch", setup.micro_batch_size)
    if micro_batch != setup.micro_batch_size:
        rows = micro_batch * setup.world_size
        accumulation = -(-workload.sequences_per_step // rows)
        new |= {"micro_batch_size": micro_batch, "gradient_accumulation_steps": accumulation}
        workload = workload.model_copy(update={"sequences_per_step": rows * accumulation})
    changes = tuple(axis for axis in AXES if axis in changed)
    return Cell(given, workload, setup.model_copy(update=new) if new else setup, changes)


def _micro_batches(wishes: Options, asked: Resolved) -> list[dict[str, Any]]:
    """The micro batch asked for, then the others: only 1 beside one that was given, else powers of two."""
    given, accumulation = wishes.get("micro_batch"), wishes.get("gradient_accumulation_steps")
    if given is not None:
        same_step = {} if accumulation is None else {"gradient_accumulation_steps": accumulation * given}
        return [{}, {"micro_batch": 1, **same_step}] if given > 1 else [{}]
    if accumulation is not None:
        return [{}]
    most = min(asked.workload.sequences_per_step // asked.setup.world_size, LARGEST_MICRO_BATCH)
    return [{}, *({"micro_batch": 2**power} for power in range(1, most.bit_length()))]


def _checkpointing(wishes: Options, asked: Resolved) -> list[dict[str, Any]]:
    if wishes.get("gradient_checkpointing") is not None:
        return [{}]
    return [{}, {"gradient_checkpointing": not asked.setup.gradient_checkpointing}]


def _losses(wishes: Options, asked: Resolved) -> list[dict[str, Any]]:
    varied = asked.setup.loss == "fused" and wishes.get("loss") in (None, "auto")
    return [{}, {"loss": "standard"}] if varied else [{}]


def _precisions(wishes: Options, asked: Resolved) -> list[dict[str, Any]]:
    """bf16 with and without autocast; where the base trains also fp32 weights under bf16 autocast."""
    precision, trains_all = asked.setup.precision, asked.setup.method.kind in ("full", "layerwise")
    given = "dtype" in wishes or "mixed_precision" in wishes
    if given or (precision.dtype, precision.mixed_precision) != ("bf16", "bf16"):
        return [{}]
    return [{}, {"mixed_precision": "no"}, *([{"dtype": "fp32", "mixed_precision": "bf16"}] if trains_all else [])]


def _optimizers(wishes: Options) -> list[dict[str, Any]]:
    if wishes.get("optimizer") is not None:
        return [{}]
    possible = OPTIMIZERS[1:-1] if wishes.get("weight_decay") else OPTIMIZERS[1:]  # see ``setup_check``
    return [{}, *({"optimizer": name} for name in possible)]


def _ranks(suggested: int) -> list[dict[str, Any]]:
    """The suggested rank, which the options have, and its halves.

    >>> _ranks(32)
    [{}, {'rank': 16, 'alpha': 32}, {'rank': 8, 'alpha': 16}]
    """
    halves = [suggested >> power for power in range(1, suggested.bit_length())]
    return [{}, *({"rank": rank, "alpha": 2 * rank} for rank in halves if rank >= LEAST_RANK)]
