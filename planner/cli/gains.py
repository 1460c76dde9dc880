"""``vramplan estimate --solve gpus``: how many GPUs are enough, and what more of them gain."""

from typing import Any

from vramplan.planner.candidate import Candidate
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.estimate_json import estimate_object
from vramplan.planner.cli.ledger import method_words, subject_lines
from vramplan.planner.cli.render import paragraph, show, show_json, table, terminal_width
from vramplan.planner.cli.subject import Subject
from vramplan.planner.cli.timing import cost_of, figure
from vramplan.planner.errors import ExitCode, UsageError
from vramplan.planner.gains import ENOUGH, Gain, gains
from vramplan.planner.units import format_bytes

ORDER = ("fits", None, "tight", "no")
HEAD = ["GPUs", "split", "each up to", "verdict", "s a step", "tokens/s", "gain", "USD/M tokens"]


def run_gains(given: dict[str, Any], subject: Subject, *, usd_per_hour: float | None, as_json: bool) -> ExitCode:
    """Print a row for each number of GPUs; exit code 0 where one is enough.

    Raises:
        UsageError: the number is given, there is no method, or no device to fit on.
        VramplanError: no number of GPUs has a price.
    """
    if given.get("gpus") is not None:
        raise UsageError("--solve gpus looks for --gpus, which is given", remedy="leave --gpus out")
    if given.get("method") is None and given.get("quant") is None:
        raise UsageError("--solve gpus needs a method", remedy="add --method full, lora or qlora")
    if subject.device is None or subject.device.route != "cuda":
        raise UsageError("--solve gpus needs a GPU to fit on", remedy="add --device NAME or --memory 24GiB")
    found = gains(lambda count: _price(count, given, subject))
    if as_json:
        show_json({"solve": "gpus", "gains": [_object(each, usd_per_hour) for each in found]})
    else:
        _show(found, subject, usd_per_hour)
    enough = [each for each in found if each.candidate is not None and each.candidate.verdict in ENOUGH]
    return ExitCode.OK if enough else ExitCode.FAILED


def _price(count: int, given: dict[str, Any], subject: Subject) -> Candidate:
    """So many GPUs, split as asked; else copied by DDP where each holds all, or sharded by FSDP2."""
    nodes = given.get("nodes") or 1
    if count * nodes == 1:
        alone = {name: value for name, value in given.items() if name not in ("sharding", "offload", "nodes")}
        return subjects.price(subject, subjects.complete(subject, alone), with_tensors=False)
    given = {**given, "gpus": count}
    splits = [given["sharding"]] if given.get("sharding") else ["fsdp"] if given.get("offload") else ["ddp", "fsdp"]
    resolved = [subjects.complete(subject, {**given, "sharding": split}) for split in splits]
    priced = [subjects.price(subject, each, with_tensors=False) for each in resolved]
    return min(priced, key=lambda each: ORDER.index(each.verdict))


def _show(found: tuple[Gain, ...], subject: Subject, usd_per_hour: float | None) -> None:
    width = terminal_width()
    priced = next(each.candidate for each in found if each.candidate is not None)
    title = (
        f"{method_words(priced.setup.method)}, {priced.workload.sequence_length} tokens, micro batch "
        f"{priced.setup.micro_batch_size}, {priced.workload.sequences_per_step} sequences a step of all GPUs"
    )
    show(
        *subject_lines(subject.model, subject.device, subject.device_note, width=width),
        "",
        paragraph(title, width=width),
        table([HEAD, *(_row(each, usd_per_hour) for each in found)], "><><>>>>", width=width),
    )
    for each in found:
        if each.unpriced_because:
            show(paragraph(each.unpriced_because, width=width, first=f"  {each.gpus}: not priced: "))
    last = next((each.candidate for each in reversed(found) if each.candidate is not None), None)
    if last is not None and last.time is not None:
        show(paragraph(f"times are {last.time.basis}", width=width, first="basis: "))
    elif last is not None:
        show(paragraph(last.time_unknown_because or "", width=width, first="time unknown: "))


def _row(gain: Gain, usd_per_hour: float | None) -> list[str]:
    candidate = gain.candidate
    if candidate is None:
        return [str(gain.gpus), *[""] * (len(HEAD) - 1)]
    setup, time, budget = candidate.setup, candidate.time, candidate.budget
    cost = _usd_per_million_tokens(candidate, usd_per_hour)
    return [
        str(setup.world_size),
        "" if setup.sharding == "none" else setup.sharding,
        format_bytes(budget.high_process_bytes),
        candidate.verdict or "none",
        "?" if time is None else f"{figure(time.seconds.low)}-{figure(time.seconds.high)}",
        "?" if time is None else f"{time.tokens_per_second.typical:,.0f}",
        "" if gain.speedup is None else f"{gain.speedup:.2f}x of {gain.over_gpus:g}",
        "?" if cost is None else figure(cost),
    ]


def _usd_per_million_tokens(candidate: Candidate, usd_per_hour: float | None) -> float | None:
    price = cost_of(candidate, usd_per_hour=usd_per_hour).usd_per_hour
    if price is None or candidate.time is None:
        return None
    return price * candidate.setup.world_size / 3600 / candidate.time.tokens_per_second.typical * 10**6


def _object(gain: Gain, usd_per_hour: float | None) -> dict[str, Any]:
    candidate = gain.candidate
    figures = {"gpus": gain.gpus, "speedup": gain.speedup, "over_gpus": gain.over_gpus}
    if candidate is None:
        return {**figures, "estimate": None, "unpriced": gain.unpriced_because}
    cost = _usd_per_million_tokens(candidate, usd_per_hour)
    return {**figures, "usd_per_million_tokens": cost, "estimate": estimate_object(candidate)}
