"""Which setup to take: every method priced with and without what saves memory, ranked, the rejected with a way out.

The order: what fits with room to spare, then what fits, then what is tight; then by method (see ``reasons``); then
the micro batch as asked, no checkpointing, full-precision optimizer states, and the most headroom. Room to spare is
asked only of a card that is not here: what a desktop or a neighbour takes of it is not known. What does not fit is
rejected with the bytes it lacks and the smallest single change that would make it fit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vramplan.planner.candidate import Candidate, Recommendation, Rejected
from vramplan.planner.device import Device
from vramplan.planner.errors import NoProgramError, UnsupportedError
from vramplan.planner.methods import METHOD_NAMES
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.reasons import Data, data_size, leaves_no_room, rank_of, reasons_for
from vramplan.planner.resolve import Resolved, given_for_method, resolve
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.units import GIB
from vramplan.planner.workload import RowLengths

Price = Callable[[Resolved], Candidate]
"""A complete setup to its price; raises NoProgramError or UnsupportedError where there is none."""
SHORTEST_SEQUENCE = 128
_VARIED = ("gradient_checkpointing", "optimizer", "micro_batch_size")
_UNPRICED = (NoProgramError, UnsupportedError)


class Variant(NamedTuple):
    """One setup that was priced, and the options that made it."""

    given: Mapping[str, Any]
    candidate: Candidate


def recommend(
    model: ModelSpec,
    device: Device | None,
    given: Mapping[str, Any],
    price: Price,
    *,
    num_examples: int | None = None,
    rows: RowLengths | None = None,
) -> Recommendation:
    """Price and rank every setup worth considering under the options a person gave.

    Args:
        given: options by name, as ``resolve`` takes them; what is given is never varied, but a micro batch above 1
            is also tried at 1 with the same sequences a step.
        num_examples: rows of the training file, where there is one.
        rows: how long its rows are, where that was measured.

    Raises:
        UsageError: the options make no sense.
        NoProgramError, UnsupportedError: not one method could be priced; the first reason.
    """

    def priced(options: Mapping[str, Any]) -> Candidate:
        return price(resolve(options, model, device, num_examples=num_examples, rows=rows))

    variants: list[Variant] = []
    failures: dict[str, Exception] = {}
    for options in variant_options(given):
        try:
            variants.append(Variant(options, priced(options)))
        except _UNPRICED as error:
            failures.setdefault(options["method"], error)
    if not variants:
        raise next(iter(failures.values()))
    done = {variant.given["method"] for variant in variants}
    data = _data(variants, num_examples)
    return Recommendation(
        **_ranked(variants, data),
        rejected=tuple(_rejected(variants, priced)),
        unpriced=tuple(f"{method}: {error.args[0]}" for method, error in failures.items() if method not in done),
    )


def variant_options(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The options of every setup worth pricing: per method, micro batch, optimizer and checkpointing."""
    if given.get("quant") is not None and given.get("method") in (None, "lora"):
        given = {**given, "method": "qlora"}
    methods = METHOD_NAMES if given.get("method") is None else (given["method"],)
    for method in methods:
        base = given_for_method(given, method) if given.get("method") is None else dict(given)
        for batch in _micro_batches(base):
            for optimizer in _optimizers(base, method):
                for checkpointing in _checkpointing(base):
                    yield base | batch | optimizer | checkpointing


def _micro_batches(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield {}
    asked = given.get("micro_batch") or 1
    if asked > 1:
        accumulation = given.get("gradient_accumulation_steps")
        same_step = {} if accumulation is None else {"gradient_accumulation_steps": accumulation * asked}
        yield {"micro_batch": 1, **same_step}


def _optimizers(given: Mapping[str, Any], method: str) -> Iterator[dict[str, Any]]:
    yield {}
    if method == "full" and given.get("optimizer") is None:
        yield {"optimizer": "adamw_8bit"}


def _checkpointing(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if given.get("gradient_checkpointing") is not None:
        yield {}
        return
    yield {"gradient_checkpointing": False}
    yield {"gradient_checkpointing": True}


def _data(variants: Sequence[Variant], num_examples: int | None) -> Data:
    adapters = [variant.candidate for variant in variants if variant.candidate.setup.method.kind != "full"]
    if num_examples is None or not adapters:
        return "unknown"
    first = adapters[0]
    return data_size(num_examples * first.workload.sequence_length, first.trainable_params)


def _ranked(variants: Sequence[Variant], data: Data) -> dict[str, Any]:
    largest_batch = max(variant.candidate.setup.micro_batch_size for variant in variants)

    def place(candidate: Candidate) -> tuple[Any, ...]:
        setup = candidate.setup
        return (
            candidate.verdict == "tight",
            leaves_no_room(candidate),
            rank_of(setup.method.kind, data),
            setup.micro_batch_size != largest_batch,
            setup.gradient_checkpointing,
            "8bit" in setup.optimizer,
            candidate.budget.high_process_bytes,
        )

    everything = [variant.candidate for variant in variants]
    ranked = sorted((candidate for candidate in everything if candidate.verdict != "no"), key=place)
    reasons = tuple(reasons_for(candidate, data, everything) for candidate in ranked)
    return {"ranked": tuple(ranked), "reasons": reasons}


def _rejected(variants: Sequence[Variant], price: Callable[[Mapping[str, Any]], Candidate]) -> Iterator[Rejected]:
    refused = [variant for variant in variants if variant.candidate.verdict == "no"]
    searched: set[str] = set()
    for variant in sorted(refused, key=_lacks):
        method = variant.given["method"]
        would_fit = _one_change(variant, variants)
        if would_fit is None and method not in searched:
            searched.add(method)
            would_fit = _shorter(variant, price)
        if would_fit is None:
            others = (other for other in ("lora", "qlora") if other != method and _fitting(variants, other))
            would_fit = next((f"--method {other}" for other in others), None)
        yield Rejected(
            candidate=variant.candidate,
            lacks_bytes=_lacks(variant),
            would_fit=would_fit or _larger_card(variant.candidate),
        )


def _lacks(variant: Variant) -> int:
    headroom = variant.candidate.headroom_bytes
    return 0 if headroom is None else -headroom


def _fitting(variants: Sequence[Variant], method: str) -> list[Variant]:
    return [v for v in variants if v.given["method"] == method and v.candidate.verdict == "fits"]


def _one_change(variant: Variant, variants: Sequence[Variant]) -> str | None:
    """The flag of another variant of the same method that fits and differs in one choice only."""
    mine = variant.candidate.setup
    for name in _VARIED:
        for other in _fitting(variants, variant.given["method"]):
            theirs = other.candidate.setup
            changed = {field for field in _VARIED if getattr(mine, field) != getattr(theirs, field)}
            flag = change_flag(name, theirs)
            if changed == {name} and flag is not None:
                return flag
    return None


def change_flag(name: str, setup: TrainingSetup) -> str | None:
    """The flag that gives a setup's value of one of the varied choices; None where it saves nothing."""
    if name == "gradient_checkpointing":
        return "--gradient-checkpointing" if setup.gradient_checkpointing else None
    return f"--optimizer {setup.optimizer}" if name == "optimizer" else f"--micro-batch {setup.micro_batch_size}"


def _shorter(variant: Variant, price: Callable[[Mapping[str, Any]], Candidate]) -> str | None:
    """The longest halving of the sequence length at which it fits."""
    length = variant.candidate.workload.sequence_length // 2
    while length >= SHORTEST_SEQUENCE:
        try:
            candidate = price({**variant.given, "sequence_length": length})
        except _UNPRICED:
            return None
        if candidate.verdict == "fits":
            return f"--sequence-length {length}"
        length //= 2
    return None


def _larger_card(candidate: Candidate) -> str:
    needed = -(-candidate.budget.high_process_bytes // GIB)
    return f"a device with {needed} GiB free"
