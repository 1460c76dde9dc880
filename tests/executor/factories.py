"""Small worlds to run in: a tiny random Llama with its tokenizer, a training file, and a plan for them."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vramplan.planner.adapters.folder import read_folder
from vramplan.planner.adapters.plan_files import write_plan
from vramplan.planner.candidate import ProgramProvenance
from vramplan.planner.device import Device
from vramplan.planner.memory.budget import BudgetLine, MemoryBudget, PhaseBudget
from vramplan.planner.memory.groups import total_bytes
from vramplan.planner.memory.optimizer import state_groups
from vramplan.planner.memory.static import count_static
from vramplan.planner.methods import Full, Lora, Qlora, virtual_tokens
from vramplan.planner.model_spec import Provenance
from vramplan.planner.plan import Plan, PlannedData, PlannedModel
from vramplan.planner.plan_hash import fingerprint_of, sha256_of
from vramplan.planner.training_setup import Precision, TrainingRecipe, TrainingSetup
from vramplan.planner.units import GIB
from vramplan.planner.workload import Workload

HIDDEN, LAYERS, VOCABULARY = 64, 2, 300
INVERSE_FREQUENCIES = 2 * 8 * 4
"""Bytes of the rotary embedding's buffers: half a head of fp32, and the copy transformers keeps of it."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
QUESTIONS = [f"what comes after {number}?" for number in range(40)]
ANSWERS = [f"after {number} comes {number + 1}, and that is all." for number in range(40)]


def prompt_completion_rows() -> list[dict[str, Any]]:
    return [{"prompt": question, "completion": answer} for question, answer in zip(QUESTIONS, ANSWERS, strict=True)]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_tiny_llama(folder: Path) -> Path:
    """Save a random Llama (hidden 64, 2 layers) and a byte-level BPE tokenizer with a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<|end|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(QUESTIONS + ANSWERS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|end|>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_device(**changes: Any) -> Device:
    cpu = Device(source="reading", kind="cpu", name="CPU", total_bytes=8 * GIB, free_bytes=8 * GIB)
    return cpu.model_copy(update=changes)


def make_budget(process_bytes: int = 2 * GIB, static: dict[str, int] | None = None) -> MemoryBudget:
    """A made-up budget: the executor reads totals and static lines, it never makes them."""
    lines = tuple(
        BudgetLine(
            component=component,  # type: ignore[arg-type]
            estimate_bytes=size,
            high_bytes=size,
            bytes_per_param=4.0,
            because="made up for a test",
        )
        for component, size in (static or {"weights": 1000}).items()
    )
    line = lines[0]
    phase = PhaseBudget(name="optimizer_step", allocated_bytes=1000, lines=lines)
    return MemoryBudget(
        phases=(phase,),
        peak_phase="optimizer_step",
        peak_allocated_bytes=1000,
        peak_reserved_bytes=1000,
        high_reserved_bytes=1000,
        process_bytes=process_bytes,
        high_process_bytes=process_bytes,
        process_lines=(),
        steady_allocated_bytes=1000,
        held=(line,),
    )


def counted(model_path: Path, setup: TrainingSetup) -> tuple[int, dict[str, int]]:
    """What the planner counts for the tiny Llama: trainable parameters, and the bytes of every static component."""
    static = count_static(read_folder(model_path), setup)
    return static.trainable_params, {
        "weights": total_bytes(static.weights, 1),
        "quantization_state": total_bytes(static.quantization_state, 1),
        "adapter": total_bytes(static.adapter, 1),
        "gradients": total_bytes(static.trainable, 1),
        "optimizer": total_bytes(state_groups(setup.optimizer, static.trainable, "cpu"), 1),
        "buffers": INVERSE_FREQUENCIES + 8 * virtual_tokens(setup.method),
    }


def make_setup(method: Full | Lora | Qlora | None = None, **changes: Any) -> TrainingSetup:
    options = {
        "method": method or Lora(r=8),
        "precision": Precision(dtype="fp32", mixed_precision="no", adapter_dtype="fp32"),
        "optimizer": "adamw_torch",
        "micro_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        **changes,
    }
    return TrainingSetup(**options)


def make_plan(
    folder: Path,
    *,
    model_path: Path | None = None,
    data: PlannedData | None = None,
    setup: TrainingSetup | None = None,
    sequence_length: int = 32,
    trainable_params: int | None = None,
    budget: MemoryBudget | None = None,
    device: Device | None = None,
    **recipe: Any,
) -> Plan:
    """A plan for a model folder, priced by the planner's own count where there are weights to count."""
    setup = setup or make_setup()
    params, static = 1, None
    if model_path is not None and budget is None and _has_weights(model_path):
        params, static = counted(model_path, setup)
    recipe = {"output_dir": str(folder / "output"), "max_steps": 10, "learning_rate": 1e-2, **recipe}
    plan = Plan(
        tool_version="0",
        created_at=datetime.now(UTC),
        model=PlannedModel(
            repo_id="tests/tiny-llama",
            revision=None,
            path=str(model_path) if model_path else None,
            model_type="llama",
            architecture="LlamaForCausalLM",
            config_sha256=_config_sha256(model_path),
            total_params=1,
            trainable_params=trainable_params or params,
            provenance=Provenance(source="folder", location=str(model_path), parameters_basis="counted"),
        ),
        device=device or make_device(),
        workload=Workload(sequence_length=sequence_length),
        setup=setup,
        recipe=TrainingRecipe(**recipe),
        data=data,
        budget=budget or make_budget(static=static),
        verdict="fits",
        program=ProgramProvenance(key="0", origin="shipped", versions={}, basis="made up for a test"),
        packages={},
        fingerprint="",
    )
    return plan.model_copy(update={"fingerprint": fingerprint_of(plan.model_dump(mode="json"))})


def write_run(plan: Plan, run_folder: Path) -> Path:
    """A run folder with the plan in it; the plan's path."""
    run_folder.mkdir(parents=True, exist_ok=True)
    write_plan(plan, run_folder / "plan.json")
    return run_folder / "plan.json"


def pin(path: Path) -> PlannedData:
    """A file as a plan pins it."""
    content = path.read_bytes()
    return PlannedData(path=str(path), sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def _has_weights(model_path: Path) -> bool:
    weights = model_path / "model.safetensors"
    return weights.exists() and weights.stat().st_size > 0


def _config_sha256(model_path: Path | None) -> str:
    config = model_path / "config.json" if model_path else None
    return sha256_of(json.loads(config.read_text())) if config and config.exists() else "0" * 64
