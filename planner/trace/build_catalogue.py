"""Build planner/catalogue/: every weight of every model in it, read off the transformers class on the meta device.

    python -P -m vramplan.planner.trace.build_catalogue [--facts models.jsonl] [--output FOLDER]

Without ``--facts`` the facts packed in the catalogue are counted afresh under the installed transformers; with it
they are replaced by the file's, one JSON object a line. A class that needs a package which is not installed (Gemma
3n's vision tower: timm, torchvision, pillow) keeps the record it has. Written:

- ``index.json``: one short row per model, all that searching needs, and where each family's records lie;
- ``models.jsonl.xz``: one xz stream per model_type, a record a line (the whole file is itself valid xz); ``tasks``
  holds the weights under the classes of other tasks, a classifier's classes written as ``"num_labels"``;
- ``architectures.json.xz``: every model_type transformers knows, its class and its config's defaults.
"""

import argparse
import dataclasses
import json
import lzma
import sys
from pathlib import Path
from typing import Any, get_args

from vramplan.planner.adapters import catalogue
from vramplan.planner.config_defaults import named_dtype
from vramplan.planner.dtypes import Dtype
from vramplan.planner.model_spec import Weight
from vramplan.planner.trace import weights as meta
from vramplan.planner.weight_rows import rows_of
from vramplan.planner.workload import Task

SHAPE_FIELDS = frozenset(
    {
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "tie_word_embeddings",
    }
)
"""Fields a matching parameter count vouches for: changing one of them changes the count."""

TIE_FORCED = "transformers>=5 forces tie_word_embeddings"
KEPT_FACTS = (
    "id",
    "aliases",
    "config",
    "validated_as",
    "counted_class",
    "params_published",
    "params_published_basis",
    "params_counted",
    "validation",
    "validation_strength",
    "validation_note",
    "requires_remote_code",
    "license",
    "gated",
    "context_length",
    "source",
    "confidence",
    "unverified_fields",
)


def main(arguments: list[str] | None = None) -> int:
    """Build the catalogue; progress and problems go to stderr."""
    parser = argparse.ArgumentParser(description="Build the bundled model catalogue.")
    parser.add_argument("--facts", type=Path, help="JSON lines; default: the facts already packed")
    parser.add_argument("--output", type=Path, default=catalogue.FOLDER)
    options = parser.parse_args(arguments)
    lines = options.facts.read_text().splitlines() if options.facts else None
    facts = [kept_facts(json.loads(line)) for line in lines] if lines else [r["facts"] for r in catalogue.records()]
    kept = {record["facts"]["id"]: record for record in catalogue.records()}
    records = [_recount(fact, kept) for fact in facts]
    write(records, options.output)
    (options.output / "architectures.json.xz").write_bytes(_packed(json.dumps(architectures(), separators=(",", ":"))))
    return 0


def kept_facts(fact: dict[str, Any]) -> dict[str, Any]:
    """The facts worth packing, with the fields nobody verified named one by one."""
    checked = {"architectures", "model_type", *fact["shape_crosscheck_llmfit"]}
    if fact["validation"] == "exact":
        checked |= SHAPE_FIELDS
    unverified = [] if fact["nonshape_fields_verified"] else sorted(set(fact["config"]) - checked)
    if named_dtype(fact["config"]) is None:
        unverified.append("dtype")
    known = {**fact, "unverified_fields": unverified, "context_length": fact["context_length_llmfit"]}
    known["source"] = known["source"].removeprefix("pypi:")
    if "Gemma3n" in (known["counted_class"] or ""):
        known["counted_class"] = "Gemma3nForConditionalGeneration"
    return {name: known.get(name) for name in KEPT_FACTS}


def _recount(fact: dict[str, Any], kept: dict[str, dict[str, Any]]) -> dict[str, Any]:
    try:
        return record_of(fact)
    except ImportError as problem:
        if fact["id"] not in kept:
            raise
        print(f"{fact['id']}: kept as it was: {str(problem).strip().splitlines()[0]}", file=sys.stderr)  # noqa: T201
        return kept[fact["id"]]


def record_of(fact: dict[str, Any]) -> dict[str, Any]:
    """One catalogue record: the facts, the config completed by the library, and the weights."""
    given = {**fact["config"], **(fact["validated_as"] or {})}
    record: dict[str, Any] = {"facts": fact, "dtype": named_dtype(given) or _assumed_dtype(fact)}
    if fact["counted_class"] is None:
        return {**record, "config": given, "weights": []}
    config = meta.build_config(given)
    model = meta.meta_model(config, fact["counted_class"])
    found = meta.weights_on_meta(model, record["dtype"])
    if (fact["validation_note"] or "").startswith(TIE_FORCED):
        found += (_untied_head(model, record["dtype"]),)
    total = sum(weight.numel * weight.count for weight in found)
    print(fact["id"], total, file=sys.stderr)  # noqa: T201
    buffers = _saved_buffer_elements(model)
    note = _buffer_note(fact, config, total, buffers) or fact["validation_note"]
    return {
        **record,
        "tasks": _tasks(given, type(model).__name__, record["dtype"]),
        "facts": {**fact, "validation_note": note},
        "architecture": type(model).__name__,
        "config": meta.completed_config(config, given),
        "output_embedding": meta.output_embedding(model),
        "buffer_elements": buffers,
        "weights": rows_of(found, record["dtype"]),
    }


UNLIKELY = 9973
"""A prime no model has as a size: stands for num_labels while a classifier is counted."""


def _tasks(given: dict[str, Any], counted: str, dtype: Dtype) -> dict[str, Any]:
    """The model under the class of each task it can be trained for, where that is not the class counted."""
    found: dict[str, Any] = {}
    for task in get_args(Task):
        config = meta.build_config(given)
        task_class = meta.task_class(config, task)
        if task_class is None or task_class.__name__ == counted or not _trains(config, task, counted):
            continue
        try:
            model = meta.task_model(config, task, UNLIKELY if task == "classification" else None)
        except (ImportError, AttributeError, ValueError, TypeError) as problem:
            print(f"  {task}: {type(problem).__name__}: {problem}", file=sys.stderr)  # noqa: T201
            continue
        text = model.config is not config
        found[task] = {
            "architecture": type(model).__name__,
            "output_embedding": meta.output_embedding(model),
            "config": meta.completed_config(model.config, given.get("text_config", {})) if text else None,
            "weights": [
                [row[0], ["num_labels" if size == UNLIKELY else size for size in row[1]], *row[2:]]
                for row in rows_of(meta.weights_on_meta(model, dtype), dtype)
            ],
        }
    return found


def _trains(config: Any, task: Task, counted: str) -> bool:
    """An encoder is not trained as a decoder, and of an encoder with a decoder neither half alone."""
    if config.is_encoder_decoder:
        return task == "seq2seq"
    return task != "causal-lm" or counted.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))


def _assumed_dtype(fact: dict[str, Any]) -> Dtype:
    """For the few whose stored dtype nobody recorded (``dtype`` is then among the unverified fields)."""
    return "bf16" if fact["params_published"] >= 10**9 else "fp32"


def _untied_head(model: Any, dtype: Dtype) -> Weight:
    """T5 1.1 and mT5: the class ties on a fresh start, from_pretrained keeps the checkpoint's own head."""
    shape = model.get_output_embeddings().weight.shape
    return Weight(name="lm_head.weight", shape=tuple(shape), dtype=dtype, module="linear")


def _buffer_note(fact: dict[str, Any], config: Any, total: int, buffers: int) -> str | None:
    """Why the published count is larger, when buffers explain the difference to the element."""
    more = fact["params_published"] - total
    if not str(fact["params_published_basis"]).startswith("exact") or more <= 0:
        return None
    if more == getattr(config, "max_position_embeddings", None):
        return f"the checkpoint also stores position_ids, a buffer of {more} elements"
    return (
        f"the checkpoint also stores {more:,} elements of buffers, which are not parameters"
        if more == buffers
        else None
    )


def _saved_buffer_elements(model: Any) -> int:
    """Elements of the buffers a checkpoint of this class holds beside its parameters."""
    saved = model.state_dict()
    return sum(buffer.numel() for name, buffer in model.named_buffers() if name in saved)


def architectures() -> dict[str, Any]:
    """Every model_type of the installed transformers: the class that would be trained, and its config's defaults."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    types: dict[str, Any] = {}
    base = {field.name for field in dataclasses.fields(transformers.PreTrainedConfig)} - {"tie_word_embeddings"}
    for model_type in CONFIG_MAPPING:
        config_class = CONFIG_MAPPING[model_type]
        defaults = {
            field.name: field.default
            for field in dataclasses.fields(config_class)
            if field.name not in base and isinstance(field.default, (str, int, float, bool, type(None)))
        }
        types[model_type] = {"architecture": _class_name(config_class), "defaults": defaults}
    return {"transformers": transformers.__version__, "types": types}


def _class_name(config_class: Any) -> str | None:
    from transformers.models.auto import modeling_auto as auto

    for names in (
        auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        auto.MODEL_MAPPING_NAMES,
    ):
        if config_class.model_type in names:
            found = names[config_class.model_type]
            return str(found if isinstance(found, str) else found[0])
    return None


def write(records: list[dict[str, Any]], folder: Path) -> None:
    """Write index.json and models.jsonl.xz."""
    families: dict[str, list[dict[str, Any]]] = {}
    for record in sorted(records, key=lambda record: record["facts"]["id"].lower()):
        families.setdefault(record["facts"]["config"]["model_type"], []).append(record)
    streams: dict[str, tuple[int, int]] = {}
    rows: list[list[Any]] = []
    body = bytearray()
    for family, members in sorted(families.items()):
        stream = _packed("".join(json.dumps(member, separators=(",", ":")) + "\n" for member in members))
        streams[family] = (len(body), len(stream))
        body += stream
        rows += [_index_row(member, family) for member in members]
    index = {"fields": list(catalogue.INDEX_FIELDS), "streams": streams, "models": rows}
    (folder / "models.jsonl.xz").write_bytes(body)
    lines = json.dumps(index, separators=(",", ":")).replace('],["', '],\n["')
    (folder / "index.json").write_text(lines + "\n", encoding="utf-8")


def _index_row(record: dict[str, Any], family: str) -> list[Any]:
    fact = record["facts"]
    counted = sum(w.numel * w.count for w in catalogue.weights_of_record(record))
    return [
        fact["id"],
        fact["aliases"],
        counted or fact["params_published"],
        family,
        fact["license"],
        fact["gated"],
        catalogue.context_length(record["config"]) or fact["context_length"],
    ]


def _packed(text: str) -> bytes:
    return lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)


if __name__ == "__main__":
    raise SystemExit(main())
