"""The bundled catalogue: a small index for searching, one compressed stream per model_type for the rest.

Built by ``vramplan.planner.trace.build_catalogue``; reading it needs nothing but the standard library.
"""

import json
import lzma
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from vramplan.planner.errors import UnsupportedError
from vramplan.planner.model_spec import ModelSpec, ModuleKind, Provenance, Weight
from vramplan.planner.weight_rows import weights_of

FOLDER = Path(__file__).resolve().parent.parent / "catalogue"
INDEX_FIELDS = ("id", "aliases", "params", "model_type", "license", "gated", "context_length")

CONTEXT_FIELDS = (
    "max_position_embeddings",
    "n_positions",
    "max_target_positions",
    "n_ctx",
    "seq_length",
    "max_sequence_length",
)
"""Where config.json says how long a sequence may be, by architecture."""


class Entry(NamedTuple):
    """One row of the index."""

    id: str
    aliases: tuple[str, ...]
    params: int
    model_type: str
    license: str | None
    gated: bool | None
    context_length: int | None


@cache
def _index() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "index.json").read_bytes())
    return found


@cache
def entries() -> tuple[Entry, ...]:
    """Every model of the catalogue, by family."""
    return tuple(Entry(row[0], tuple(row[1]), *row[2:]) for row in _index()["models"])


def records() -> Iterator[dict[str, Any]]:
    """Every whole record; slow (decompresses all), for building and testing."""
    for model_type in _index()["streams"]:
        yield from _family(model_type)


def record(entry: Entry) -> dict[str, Any]:
    """The whole record of one model; decompresses its family only."""
    return next(each for each in _family(entry.model_type) if each["facts"]["id"] == entry.id)


def _family(model_type: str) -> Iterator[dict[str, Any]]:
    offset, length = _index()["streams"][model_type]
    with (FOLDER / "models.jsonl.xz").open("rb") as packed:
        packed.seek(offset)
        lines = lzma.decompress(packed.read(length)).splitlines()
    return (json.loads(line, parse_constant=str) for line in lines)  # Infinity as text: it goes into plan files


@cache
def architectures() -> dict[str, Any]:
    """model_type -> {"architecture", "defaults"} for every type transformers has a class of its own for."""
    found: dict[str, Any] = json.loads(lzma.decompress((FOLDER / "architectures.json.xz").read_bytes()))["types"]
    return found


def module_kinds(model_type: str) -> dict[str, ModuleKind]:
    """What holds each weight in the catalogue's models of a family, by ``kind_key``; empty: no such family."""
    members = _family(model_type) if model_type in _index()["streams"] else ()
    return {kind_key(weight.name): weight.module for member in members for weight in weights_of_record(member)}


def kind_key(name: str) -> str:
    """A weight's name without what checkpoints and classes prefix differently.

    >>> kind_key("transformer.h.{layer}.attn.c_attn.weight"), kind_key("transformer.wte.weight")
    ('attn.c_attn.weight', 'wte.weight')
    """
    return name.partition("{layer}.")[2] or ".".join(name.split(".")[-2:])


def weights_of_record(record: dict[str, Any]) -> tuple[Weight, ...]:
    """The weights a record holds."""
    return weights_of(record["weights"], record["dtype"])


OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer")
"""Positions start after ``pad_token_id``, so the table is longer than the longest sequence: 514 means 512."""


def context_length(config: dict[str, Any]) -> int | None:
    """The longest sequence the config allows, from itself or its text_config; None: not said."""
    for fields in (config, config.get("text_config") or {}):
        for name in CONTEXT_FIELDS:
            value = fields.get(name)
            if isinstance(value, int) and value > 0:
                taken = 1 + (fields.get("pad_token_id") or 1) if fields.get("model_type") in OFFSET_POSITIONS else 0
                return value - taken
    return None


def model_spec(entry: Entry, name: str | None = None) -> ModelSpec:
    """The ModelSpec of a catalogue entry, under the alias it was asked for when ``name`` is one.

    Raises:
        UnsupportedError: the architecture exists only as remote code, so its weights cannot be counted.
    """
    whole = record(entry)
    fact = whole["facts"]
    if not whole["weights"]:
        raise UnsupportedError(
            f"{entry.id} ({entry.model_type}) exists only as code in its repository; transformers has no class for it",
            remedy="choose a model with a transformers class: vramplan models",
        )
    weights = weights_of_record(whole)
    same_owner = name is None or name.partition("/")[0] == entry.id.partition("/")[0]
    return ModelSpec(
        repo_id=name or entry.id,
        model_type=whole["config"]["model_type"],
        architecture=whole["architecture"],
        config=whole["config"],
        weights=weights,
        checkpoint_dtype=whole["dtype"],
        quantization=_quantization(whole["config"], name or entry.id),
        requires_remote_code=fact["requires_remote_code"],
        license=fact["license"] if same_owner else None,
        gated=fact["gated"] if same_owner else None,
        published_params=fact["params_published"] if _exact(fact) else None,
        output_embedding=whole["output_embedding"],
        context_length=entry.context_length,
        provenance=Provenance(
            source="catalogue",
            location=entry.id,
            parameters_basis=fact["params_published_basis"],
            config_basis=f"{fact['confidence']} [{fact['source']}]",
            unverified_fields=tuple(fact["unverified_fields"]),
            note=_note(fact, whole, name),
        ),
    )


def _exact(fact: dict[str, Any]) -> bool:
    return str(fact["params_published_basis"]).startswith("exact")


def _quantization(config: dict[str, Any], name: str) -> str | None:
    """How the checkpoint is quantised; an alias named ...-BF16 is the same model stored in bf16."""
    if name.lower().endswith("-bf16"):
        return None
    method = (config.get("quantization_config") or {}).get("quant_method")
    return str(method) if method else None


def _note(fact: dict[str, Any], whole: dict[str, Any], name: str | None) -> str | None:
    notes = []
    if name and name != fact["id"]:
        notes.append(f"priced as {fact['id']}, which has the same architecture and parameter count")
    if fact["validated_as"]:
        notes.append(f"published with code of its own; priced as {whole['architecture']}, whose parameters agree")
    if fact["validation_note"]:
        notes.append(fact["validation_note"])
    return "; ".join(notes) or None
