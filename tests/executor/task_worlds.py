"""Tiny random models of each task with their tokenizers and training files, and plans with real prices for them."""

import itertools
from pathlib import Path
from typing import Any

from tests.executor.factories import make_device, write_jsonl
from vramplan.planner.plan import Plan

VOCABULARY, SEQUENCE_LENGTH, TARGET_LENGTH = 300, 24, 16
SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
ENCODER = {"vocab_size": VOCABULARY, "max_position_embeddings": 514, "pad_token_id": 0, **SMALL}
DECODER = {
    "vocab_size": VOCABULARY,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 1,
    "tie_word_embeddings": False,
    **SMALL,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", **ENCODER},
    "roberta": {"model_type": "roberta", **ENCODER, "type_vocab_size": 1},
    "llama": {"model_type": "llama", **DECODER},
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": VOCABULARY,
        "n_embd": 64,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 512,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 1,
    },
    "t5": {
        "model_type": "t5",
        "vocab_size": VOCABULARY,
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 128,
        "num_layers": 3,
        "num_decoder_layers": 3,
        "num_heads": 4,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    },
    "bart": {
        "model_type": "bart",
        "vocab_size": VOCABULARY,
        "d_model": 64,
        "encoder_layers": 3,
        "decoder_layers": 3,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "decoder_start_token_id": 1,
        "forced_eos_token_id": 1,
    },
}
COLOURS = ("red", "green", "red", "blue", "red", "red")
"""Which comes how often is the least that any method learns of a random base."""


def rows_of(task: str, count: int = 48) -> list[dict[str, Any]]:
    """Rows that can be learnt: which colour a text names; what the numbers of a text are in reverse. Every row is
    longer than the tiny models' limits, so that every batch is the largest."""
    numbers = [[(7 * row + 3 * place) % 10 for place in range(30)] for row in range(count)]
    texts = [" ".join(map(str, row)) for row in numbers]
    if task == "classification":
        return [
            {"text": f"{colour} is what {text} says", "label": colour}
            for colour, text in zip(itertools.cycle(COLOURS), texts, strict=False)
        ]
    if task == "seq2seq":
        return [{"input": text, "target": text[::-1]} for text in texts]
    return [{"text": text} for text in texts]


def make_tokenizer(folder: Path) -> None:
    """A byte-level BPE of 300 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "</s>", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["red green blue is what says 1 2 3 4 5 6 7 8 9 0"], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)


def make_model(folder: Path, family: str, task: str, *, num_labels: int = 3) -> Path:
    """Save a random model of a task's class, and its tokenizer."""
    import torch

    from vramplan.planner.trace import weights

    torch.manual_seed(0)
    config = weights.build_config(CONFIGS[family])
    model_class = weights.task_class(config, task)  # type: ignore[arg-type]
    if task == "classification":
        config.num_labels = num_labels
    model_class._from_config(config).save_pretrained(folder)
    make_tokenizer(folder)
    return folder


def priced_plan(
    folder: Path,
    model_path: Path,
    task: str,
    *,
    rows: list[dict[str, Any]] | None = None,
    recipe: dict[str, Any] | None = None,
    **given: Any,
) -> Plan:
    """A plan as the planner makes it: resolved, counted, its program traced here."""
    from vramplan.planner.adapters.datasets import read_data_file
    from vramplan.planner.adapters.folder import read_folder
    from vramplan.planner.adapters.plan_files import freeze_plan
    from vramplan.planner.adapters.programs import Found
    from vramplan.planner.adapters.tasks import model_for_task
    from vramplan.planner.estimate import estimate
    from vramplan.planner.resolve import resolve
    from vramplan.planner.trace.build import build_program

    data = read_data_file(write_jsonl(folder / "train.jsonl", rows or rows_of(task)), task)  # type: ignore[arg-type]
    labels = data.planned.labels
    model = model_for_task(read_folder(model_path), task, len(labels) or None)  # type: ignore[arg-type]
    model = model.model_copy(update={"repo_id": f"tiny/{model.model_type}"})
    options: dict[str, Any] = {
        "task": task,
        "dtype": "fp32",
        "mixed_precision": "no",
        "sequence_length": SEQUENCE_LENGTH,
        "micro_batch": 4,
        "gradient_accumulation_steps": 1,
        "optimizer": "adamw_torch",
        "gradient_checkpointing": None,
        "num_labels": len(labels) or None,
        "target_length": TARGET_LENGTH if task == "seq2seq" else None,
        **given,
    }
    device = make_device()
    resolved = resolve(options, model, device, num_examples=data.num_rows)
    candidate = estimate(
        model, resolved.workload, resolved.setup, device, programs=lambda key: Found(build_program(key), "traced")
    )
    told = {"output_dir": str(folder / "output"), "max_steps": 10, "learning_rate": 1e-2, **(recipe or {})}
    return freeze_plan(candidate, model, resolved.recipe.model_copy(update=told), data.planned)
