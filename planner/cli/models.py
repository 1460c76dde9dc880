"""``vramplan models``: search the catalogue, or show one model's card."""

from collections import Counter
from typing import Any

from vramplan.planner.adapters.models import (
    ModelSummary,
    catalogue_size,
    folder_of,
    resolve_model,
    search_models,
    summary,
)
from vramplan.planner.cli.parsing import whole_number
from vramplan.planner.cli.render import joined, paragraph, show, show_json, table, tell, terminal_width
from vramplan.planner.dtypes import BYTES
from vramplan.planner.errors import ExitCode, UsageError
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.units import format_bytes, format_count

KINDS = {
    "linear": "linear: LoRA adapts it, 4-bit loading packs it",
    "head": "the output head: all-linear and 4-bit loading leave it",
    "linear_subclass": "a linear of the model's own: LoRA adapts it, 4-bit loading leaves it",
    "experts": "fused experts: 4-bit loading leaves them",
    "embedding": "embedding",
    "norm": "norm",
    "conv": "convolution, or GPT-2's transposed linear",
    "other": "a parameter of its own",
}
"""What each kind of module means to a method."""


def add_parser(subparsers: Any) -> None:
    """Register ``models``."""
    parser = subparsers.add_parser("models", description="Search the bundled catalogue, or show one model's card.")
    parser.add_argument(
        "query", nargs="*", metavar="QUERY", help="words to search for; or a catalogue id, Hub id or folder"
    )
    parser.add_argument("--limit", type=whole_number, default=20, metavar="N", help="rows to show (default 20)")
    parser.add_argument("--revision", metavar="R", help="a branch, tag or commit on the Hub")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, parser=parser)


def run(args: Any) -> ExitCode:
    """Print a list, or the card of the one model the query names.

    Raises:
        UsageError: the limit is not positive, or a revision comes without a model.
        VramplanError: nothing matches, and what was named cannot be read either.
    """
    query = " ".join(args.query)
    if args.limit < 1:
        raise UsageError(f"--limit {args.limit} shows nothing", remedy="give a limit of 1 or more")
    if args.revision is not None and not query:
        raise UsageError("--revision needs a model", remedy="vramplan models OWNER/NAME --revision R")
    found = search_models(query, limit=catalogue_size())
    if args.revision is not None or _names_one(query) or not found:
        model = resolve_model(query, revision=args.revision)
        return _show_card(model, as_json=args.json)
    shown = found[: args.limit]
    if args.json:
        show_json({"models": [row.model_dump(mode="json") for row in shown], "found": len(found)})
        return ExitCode.OK
    show(_list(shown, width=terminal_width()))
    if len(shown) < len(found):
        tell(f"{len(shown)} of {len(found)} models; --limit N shows more, vramplan models NAME shows one")
    return ExitCode.OK


def _names_one(query: str) -> bool:
    return summary(query) is not None or folder_of(query) is not None


def _list(rows: tuple[ModelSummary, ...], *, width: int) -> str:
    head = ["model", "parameters", "context", "type", "licence"]
    body = [
        [
            row.id,
            format_count(row.params),
            "" if row.context_length is None else str(row.context_length),
            row.model_type,
            joined((row.license or "unknown", "gated" if row.gated else "")),
        ]
        for row in rows
    ]
    return table([head, *body], "<>><<", width=width)


def _show_card(model: ModelSpec, *, as_json: bool) -> ExitCode:
    if as_json:
        content = model.model_dump(mode="json", exclude={"weights"})
        show_json({"model": {**content, "total_params": model.total_params, "parameters": _by_kind(model)}})
    else:
        show(card(model, width=terminal_width()))
    return ExitCode.OK


def card(model: ModelSpec, *, width: int) -> str:
    """One model: its size by kind of module, how it is stored, and how well all that is known."""
    stored = sum(weight.numel * weight.count * BYTES[weight.dtype] for weight in model.weights)
    headline = joined(
        (
            model.architecture,
            f"{format_count(model.total_params)} parameters ({model.total_params:,})",
            f"{model.checkpoint_dtype}, {format_bytes(stored)}" if model.quantization is None else "",
            "" if model.quantization is None else f"stored quantised ({model.quantization})",
            "" if model.context_length is None else f"{model.context_length} tokens",
            joined((model.license or "licence unknown", "gated" if model.gated else "")),
        )
    )
    rows = [["module", "parameters", "share", "what it is"]]
    rows += [
        [kind, f"{count:,}", f"{100 * count / model.total_params:.1f} %", KINDS[kind]]
        for kind, count in sorted(_by_kind(model).items(), key=lambda each: -each[1])
    ]
    blocks = [paragraph(model.repo_id, width=width), paragraph(headline, width=width, first="  "), ""]
    blocks += [table(rows, "<>><", width=width), "", *_known(model, width=width)]
    return "\n".join(blocks)


def _by_kind(model: ModelSpec) -> dict[str, int]:
    """Parameters by what holds them, a head of its own apart."""
    counts: Counter[str] = Counter()
    for weight in model.weights:
        is_head = model.output_embedding is not None and weight.name.startswith(f"{model.output_embedding}.")
        counts["head" if is_head else weight.module] += weight.numel * weight.count
    return dict(counts)


def _known(model: ModelSpec, *, width: int) -> list[str]:
    """How well the model is known, one wrapped sentence a line."""
    provenance = model.provenance
    published = model.published_params
    lines = [
        ("count", provenance.parameters_basis),
        ("published", "" if published in (None, model.total_params) else f"{published:,} elements in the checkpoint"),
        ("note", provenance.note or ""),
        ("config", provenance.config_basis or ""),
        ("revision", model.revision or "not pinned: the run pins and re-checks it"),
        ("unchecked", ", ".join(provenance.unverified_fields)),
        ("code", "its repository holds code of its own, which is never run here" if model.requires_remote_code else ""),
    ]
    return [paragraph(text, width=width, first=f"  {name:<10} ") for name, text in lines if text]
