"""``vramplan methods [METHOD]``: what is known of each method, and with ``--model`` what it is there in numbers."""

import argparse
from typing import Any, NamedTuple

from vramplan.planner.cli.ledger import method_words, model_line
from vramplan.planner.cli.options import SETUP
from vramplan.planner.cli.parsing import Parser, one_of
from vramplan.planner.cli.render import paragraph, show, show_json, table, terminal_width
from vramplan.planner.errors import ExitCode, UsageError, VramplanError
from vramplan.planner.method_counts import MethodCounts, count_method
from vramplan.planner.method_evidence import MODEL, PUBLISHED, SOURCE, PublishedRun, published_for
from vramplan.planner.method_facts import FACTS, FULL_BF16_ADAMW, Fact, MethodFacts, RuleOfThumb, facts_of
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.resolve import given_for_method, resolve
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.units import format_bytes, format_count

OPTIONS = (
    "rank", "target", "quant", "double_quant", "virtual_tokens", "adapter_kind", "bottleneck_size", "encoder_type",
    "encoder_hidden_size", "optimizer", "dtype", "adapter_dtype", "task", "num_labels",
)  # fmt: skip
"""Of the options of ``estimate``, those that the numbers here depend on."""


class Counted(NamedTuple):
    """A method on a model: its setup and numbers, or why there are none."""

    facts: MethodFacts
    setup: TrainingSetup | None = None
    counts: MethodCounts | None = None
    why_not: str | None = None


def add_parser(subparsers: Any) -> None:
    """Register ``methods``."""
    parser: Parser = subparsers.add_parser("methods", description="What each method trains, costs, risks and suits.")
    kinds = [facts.kind for facts in FACTS]
    parser.add_argument("method", metavar="METHOD", nargs="?", type=one_of(*kinds), help=", ".join(kinds))
    parser.add_argument("--model", metavar="MODEL", help="count them on this model: a catalogue id, Hub id or folder")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of the model on the Hub")
    parser.add_argument("--json", action="store_true", help="print JSON")
    for option in (option for option in SETUP if option.name in OPTIONS):
        named: dict[str, Any] = {"dest": option.name, "default": None, "help": option.help}
        if option.read is None:
            named["action"] = argparse.BooleanOptionalAction
        else:
            named |= {"type": option.read, "metavar": option.metavar}
        parser.rare.add_argument(f"--{option.name.replace('_', '-')}", **named)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Print the facts.

    Raises:
        UsageError: an option without a model to count on.
        VramplanError: the model is not to be found; see ``resolve_model``.
    """
    given = {name: vars(args)[name] for name in OPTIONS if vars(args)[name] is not None}
    if given and args.model is None:
        name = next(iter(given)).replace("_", "-")
        raise UsageError(f"--{name} changes only numbers, and there is no model", remedy="add --model MODEL")
    chosen = FACTS if args.method is None else (facts_of(args.method),)
    model = None if args.model is None else _model(args)
    rows = [Counted(facts) if model is None else counted(model, facts, given) for facts in chosen]
    if args.json:
        show_json(as_json(model, rows))
    elif args.method is None:
        show(overview(model, rows, width=terminal_width()))
    else:
        show(details(model, rows[0], width=terminal_width()))
    return ExitCode.OK


def _model(args: argparse.Namespace) -> ModelSpec:
    from vramplan.planner.adapters.models import resolve_model
    from vramplan.planner.adapters.tasks import model_for_task

    return model_for_task(resolve_model(args.model, revision=args.revision), args.task, args.num_labels)


def counted(model: ModelSpec, facts: MethodFacts, given: dict[str, Any]) -> Counted:
    """A method at its defaults, and what was given, on a model."""
    try:
        setup = resolve(given_for_method(given, facts.kind), model, None).setup
        return Counted(facts, setup, count_method(model, setup))
    except VramplanError as error:
        return Counted(facts, why_not=error.message)


def overview(model: ModelSpec | None, rows: list[Counted], *, width: int) -> str:
    """All methods, a line each, and the published table."""
    blocks = []
    if model is not None:
        blocks += [paragraph(model_line(model), width=width, first="model    "), "", _numbers(rows, width=width)]
        blocks += [
            paragraph(row.why_not or "", width=width, first=f"  {row.facts.kind}: not here: ")
            for row in rows
            if row.counts is None
        ]
        blocks += [
            "",
            paragraph(
                "B/param: weights, gradients and optimizer states by the base's parameters, before activations; "
                "vramplan estimate prices those",
                width=width,
            ),
            "",
        ]
    head = ["method", "trains", "merges", "forgets", "when used"]
    facts_rows = [
        [facts.kind, facts.trains, _yes(facts.mergeable), facts.forgetting, facts.inference]
        for facts in (row.facts for row in rows)
    ]
    blocks += [table([head, *facts_rows], "<<<<<", width=width), "", evidence_text(PUBLISHED, width=width), ""]
    return "\n".join([*blocks, paragraph("one of them, with sources: vramplan methods METHOD", width=width)])


def details(model: ModelSpec | None, row: Counted, *, width: int) -> str:
    """One method, every fact with its source."""
    facts = row.facts
    blocks = [paragraph(facts.trains, width=width, first=f"{facts.kind}: trains ")]
    if model is not None:
        blocks += ["", paragraph(model_line(model), width=width, first="model    "), ""]
        blocks.append(_numbers([row], width=width) if row.counts else f"not here: {row.why_not}")
    merges = Fact(text=f"{_yes(facts.mergeable)}: {facts.mergeable_because}", source="by construction")
    used = Fact(text=f"{facts.inference}: {facts.inference_fact.text}", source=facts.inference_fact.source)
    forgets = Fact(text=f"{facts.forgetting}: {facts.forgetting_fact.text}", source=facts.forgetting_fact.source)
    blocks += ["", *_facts("merges", (merges,), width), *_facts("used", (used,), width)]
    blocks += [*_facts("forgets", (forgets,), width), *_facts("choose", facts.use_when, width)]
    blocks += _facts("avoid", facts.avoid_when, width)
    if facts.kind == "full":
        blocks += ["", rule_text(FULL_BF16_ADAMW, row.counts, width=width)]
    published = published_for("lora" if facts.kind == "qlora" else facts.kind)
    if published:
        blocks += ["", evidence_text(published, width=width)]
        if facts.kind == "qlora":
            blocks.append("LoRA's, on a base in 16 bits: none on a quantised base was published")
    return "\n".join(blocks)


def rule_text(rule: RuleOfThumb, counts: MethodCounts | None, *, width: int) -> str:
    """A rule of thumb beside our count, and why they differ."""
    parts = ("weights", "gradients", "optimizer", "activations")
    said = " + ".join(f"{getattr(rule, part)} {part}" for part in parts)
    lines = [
        paragraph(f"{rule.title}: {rule.bytes_per_param} bytes a parameter = {said}", width=width, first="rule     ")
    ]
    if counts is not None:
        theirs = rule.bytes_per_param * counts.total_params
        lines.append(
            paragraph(
                f"{format_bytes(theirs)} by the rule; {format_bytes(counts.static_bytes)} counted here, "
                f"{counts.bytes_per_param:.2f} bytes a parameter, before activations",
                width=width,
                first="         ",
            )
        )
    return "\n".join([*lines, *_facts("differs", rule.differs, width)])


def evidence_text(runs: tuple[PublishedRun, ...], *, width: int) -> str:
    """Published accuracy beside memory."""
    head = ["method", "accuracy", "reserved", "trainable", "file", "setting"]
    rows = [
        [
            run.kind,
            f"{run.test_accuracy:.1%}",
            format_bytes(run.max_reserved_bytes),
            format_count(run.trainable_params),
            format_bytes(run.file_bytes),
            run.setting,
        ]
        for run in runs
    ]
    words = (
        f"published for {MODEL}: GSM8K accuracy after 5,000 steps of MetaMathQA, 4 rows each, one L40S, bf16 base; "
        f"rates not tuned for every method ({SOURCE})"
    )
    return "\n".join([paragraph(words, width=width), table([head, *rows], "<>>>><", width=width)])


def _numbers(rows: list[Counted], *, width: int) -> str:
    head = ["method", "trainable", "share", "B/param", "checkpoint", "cache a row", "setup"]
    cells = [
        [
            row.facts.kind,
            f"{row.counts.trainable_params:,}",
            f"{row.counts.trainable_share:.4%}",
            f"{row.counts.bytes_per_param:.2f}",
            format_bytes(row.counts.checkpoint_bytes),
            format_bytes(row.counts.cache_bytes_per_row) if row.counts.cache_bytes_per_row else "",
            method_words(row.setup.method),
        ]
        for row in rows
        if row.counts is not None and row.setup is not None
    ]
    return table([head, *cells], "<>>>>><", width=width)


def as_json(model: ModelSpec | None, rows: list[Counted]) -> dict[str, Any]:
    """Everything the text says, as JSON values."""
    methods = []
    for row in rows:
        one: dict[str, Any] = row.facts.model_dump(mode="json")
        if model is not None:
            one["setup"] = None if row.setup is None else row.setup.model_dump(mode="json")
            one["counts"] = None if row.counts is None else _counts_object(row.counts)
            one["not_here_because"] = row.why_not
        one["published"] = [run.model_dump(mode="json") for run in published_for(row.facts.kind)]
        methods.append(one)
    return {"model": None if model is None else model.repo_id, "methods": methods, "published_source": SOURCE}


def _counts_object(counts: MethodCounts) -> dict[str, Any]:
    shares = {"trainable_share": counts.trainable_share, "bytes_per_param": counts.bytes_per_param}
    return counts.model_dump(mode="json") | shares


def _facts(title: str, facts: tuple[Fact, ...], width: int) -> list[str]:
    titles = [title, *("" for _ in facts[1:])]
    return [
        paragraph(f"{fact.text} ({fact.source})", width=width, first=f"{name:<9}")
        for name, fact in zip(titles, facts, strict=True)
    ]


def _yes(value: bool) -> str:
    return "yes" if value else "no"
