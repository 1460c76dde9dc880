"""A priced setup in words and columns: its options, the ledger of its peak, its other phases, its verdict."""

from collections.abc import Sequence
from typing import Any

from vramplan.planner.candidate import Candidate, ResolvedOption
from vramplan.planner.cli.ranks_text import ranks_lines
from vramplan.planner.cli.render import items, joined, paragraph, table
from vramplan.planner.device import Device
from vramplan.planner.fit_chance import fit_chance
from vramplan.planner.measured_errors import SOURCE
from vramplan.planner.memory.budget import BudgetLine, PhaseBudget
from vramplan.planner.methods import Method
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.units import format_bytes, format_count

LEDGER_HEAD = ["part", "estimate", "up to", "B/param", "because"]
ALWAYS_SHOWN = frozenset(
    {
        "method",
        "rank",
        "alpha",
        "target",
        "lora_dropout",
        "quant",
        "double_quant",
        "kbit_preparation",
        "virtual_tokens",
        "encoder_hidden_size",
        "adapter_kind",
        "bottleneck_size",
        "non_linearity",
        "feedforward",
        "lower_layers",
        "lower_learning_rate",
        "sequence_length",
        "valid_labels",
        "micro_batch",
        "gradient_accumulation_steps",
        "sequences_per_step",
        "gradient_checkpointing",
        "optimizer",
        "dtype",
        "mixed_precision",
        "adapter_dtype",
        "loop",
    }
)
"""Options worth a word even where nobody touched them; the others are shown when given."""

_SIZES = {"r": "r", "num_virtual_tokens": "tokens", "bottleneck_size": "size"}
_SWITCHES = {"use_dora": "DoRA", "use_rslora": "rsLoRA"}


def model_line(model: ModelSpec) -> str:
    """Who the model is and how large."""
    revision = f" @ {model.revision[:7]}" if model.revision else ""
    return joined((f"{model.repo_id}{revision}", f"{format_count(model.total_params)} parameters", model.architecture))


def device_line(device: Device | None, note: str) -> str:
    """The device and what is free on it, or why there is none; ``note`` says how it was found."""
    if device is None:
        return note
    free = f"{format_bytes(device.total_bytes)}"
    if device.free_bytes is not None:
        free = f"{format_bytes(device.free_bytes)} of {free} free"
    kept = f"{format_bytes(device.reserve_bytes)} kept back" if device.reserve_bytes else ""
    return joined((device.name, free, kept, "" if note == device.name else note))


def subject_lines(model: ModelSpec, device: Device | None, note: str, *, width: int) -> list[str]:
    """The model and the device, one line each."""
    return [
        paragraph(model_line(model), width=width, first="model    "),
        paragraph(device_line(device, note), width=width, first="device   "),
    ]


def sharing_words(setup: TrainingSetup) -> list[str]:
    """How several GPUs share the work; nothing of one."""
    if setup.world_size == 1:
        return []
    return [setup.sharding + ("" if setup.offload == "none" else f" offload {setup.offload}")]


def method_words(method: Method) -> str:
    """A method as a table names it.

    >>> from vramplan.planner.methods import Full, Qlora
    >>> method_words(Full()), method_words(Qlora(r=8, use_dora=True))
    ('full', 'qlora r=8 nf4 DoRA')
    """
    if method.kind == "full":
        blocks = method.trainable_blocks
        last = "last block" if blocks == 1 else f"last {blocks} blocks"
        return "full" if blocks is None else f"full, {last}"
    words: list[str] = [method.kind]
    words += [
        f"{letter}={getattr(method, field)}"
        for field, letter in _SIZES.items()
        if getattr(method, field, None) is not None
    ]
    words += [getattr(method, field) for field in ("adapter_kind", "quant") if getattr(method, field, None)]
    words += [word for field, word in _SWITCHES.items() if getattr(method, field, False)]
    return " ".join(words)


def options_text(options: Sequence[ResolvedOption], *, width: int) -> str:
    """What was asked and what was assumed, each with the flag that changes it."""
    blocks = []
    for origin, title in (("given", "given"), ("default", "defaults"), ("derived", "derived")):
        chosen = [option for option in options if option.origin == origin]
        if origin != "given":
            chosen = [option for option in chosen if option.name in ALWAYS_SHOWN]
        if chosen:
            blocks.append(items([_option_words(option) for option in chosen], width=width, first=f"{title:<9}"))
    return "\n".join(blocks)


def shared_options(rows: Sequence[Sequence[ResolvedOption]]) -> list[ResolvedOption]:
    """The options of several setups that are the same in every setup that has them."""
    by_name: dict[str, list[ResolvedOption]] = {}
    for option in (option for row in rows for option in row):
        by_name.setdefault(option.name, []).append(option)
    return [
        same[0]
        for name, same in by_name.items()
        if name != "method" and all(option.value == same[0].value for option in same)
    ]


def ledger_text(candidate: Candidate, *, width: int) -> str:
    """The peak phase line by line, one line for each other phase, and the process figure."""
    budget = candidate.budget
    peak = next(phase for phase in budget.phases if phase.name == budget.peak_phase)
    rows = [LEDGER_HEAD, *(line_row(line) for line in peak.lines)]
    rows.append(_sum_row("allocated", peak.lines, peak.allocated_bytes, candidate.total_params))
    rows += [line_row(line) for line in budget.process_lines]
    process = candidate.budget.process_bytes
    per_param = f"{process / candidate.total_params:.2f}"
    rows.append(["process", format_bytes(process), format_bytes(budget.high_process_bytes), per_param, "all of it"])
    of_rank = "" if candidate.ranks is None else f", each of {candidate.ranks.world_size} ranks"
    blocks = [f"peak: {phase_words(peak.name)}{of_rank}", table(rows, "<>>><", width=width)]
    others = [phase for phase in budget.phases if phase is not peak]
    if others:
        head = ["phase", "allocated", "up to", "B/param", "because"]
        phase_rows = [_phase_row(phase, candidate.total_params) for phase in others]
        blocks += ["", "other phases", table([head, *phase_rows], "<>>><", width=width)]
    if candidate.ranks is not None:
        blocks += ["", *ranks_lines(candidate.ranks, width=width)]
    return "\n".join(blocks)


def verdict_text(candidate: Candidate, *, width: int, unmeasured_rows: int | None = None) -> str:
    """The verdict as a sentence, and everything a person should know besides.

    Args:
        unmeasured_rows: rows of the training file whose length in tokens is not known.
    """
    lines = []
    if candidate.verdict is None:
        lines.append(paragraph(f"no verdict: {candidate.verdict_reason}", width=width))
    else:
        lines.append(paragraph(candidate.verdict_reason, width=width, first=f"{candidate.verdict}: "))
        lines += _chance(candidate, width)
    if not candidate.runnable:
        lines.append(paragraph(f"priced only: {candidate.not_runnable_because}", width=width))
    if unmeasured_rows is not None:
        length = candidate.workload.sequence_length
        text = f"the file's {unmeasured_rows} rows were counted, not measured: priced for rows of {length} tokens"
        lines.append(paragraph(text, width=width, first="note: "))
    lines += [paragraph(warning, width=width, first="note: ") for warning in candidate.warnings]
    lines.append(paragraph(candidate.provenance.basis, width=width, first="basis: "))
    return "\n".join(lines)


def _chance(candidate: Candidate, width: int) -> list[str]:
    chance = fit_chance(candidate)
    text = f"{chance:.0%} by the errors of {SOURCE}".replace("%", " %", 1) if chance is not None else ""
    return [paragraph(text, width=width, first="P(fits): ")] if text else []


def line_row(line: BudgetLine) -> list[str]:
    """One budget line as a row under ``LEDGER_HEAD``."""
    return [
        line.component.replace("_", " "),
        format_bytes(line.estimate_bytes),
        format_bytes(line.high_bytes),
        f"{line.bytes_per_param:.2f}",
        line.because,
    ]


def phase_words(name: str) -> str:
    """A phase's id as words."""
    return name.replace("_", " ")


def phase_high_bytes(phase: PhaseBudget) -> int:
    """The most we would bet on for a phase: its lines' upper bounds together."""
    return sum(line.high_bytes for line in phase.lines)


def _sum_row(name: str, lines: Sequence[BudgetLine], size_bytes: int, total_params: int) -> list[str]:
    high = sum(line.high_bytes for line in lines)
    return [name, format_bytes(size_bytes), format_bytes(high), f"{size_bytes / total_params:.2f}", "live tensors"]


def _phase_row(phase: PhaseBudget, total_params: int) -> list[str]:
    largest = sorted(phase.lines, key=lambda line: -line.estimate_bytes)[:2]
    because = ", ".join(f"{line.component.replace('_', ' ')} {format_bytes(line.estimate_bytes)}" for line in largest)
    return [
        phase_words(phase.name),
        format_bytes(phase.allocated_bytes),
        format_bytes(phase_high_bytes(phase)),
        f"{phase.allocated_bytes / total_params:.2f}",
        because,
    ]


def _option_words(option: ResolvedOption) -> str:
    own_flag = f"--{option.name.replace('_', '-')}"
    name = own_flag if option.flag == own_flag else option.name.replace("_", " ")
    words = f"{name} {_value_words(option.value)}"
    notes = [] if option.flag == own_flag else [option.flag]
    notes += [option.because] if option.because else []
    return f"{words} ({'; '.join(notes)})" if notes else words


def _value_words(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(str(part) for part in value) if isinstance(value, list) else str(value)
