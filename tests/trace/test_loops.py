"""Loops other than ours, run for real on the CPU and followed by the tracker, beside their programs and prices."""

import pytest

pytestmark = pytest.mark.train

BATCH, LENGTH, VOCABULARY, LAYERS = 2, 48, 300, 6
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "num_hidden_layers": LAYERS,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_theta": 10000.0,
}


def _model(*, dtype="float32", lora=False):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    fields = {name: value for name, value in CONFIG.items() if name not in ("model_type", "architectures")}
    model = LlamaForCausalLM(LlamaConfig(**fields)).to(getattr(torch, dtype))
    if lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    return model


def _batch():
    import torch

    ids = torch.randint(3, VOCABULARY, (BATCH, LENGTH))
    return {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}


def _tracker(model, tensors=()):
    from vramplan.planner.trace.tracker import Tracker

    tracker = Tracker()
    for tensor in (*model.parameters(), *model.buffers(), *tensors):
        tracker.see(tensor)
    return tracker


def _levels(tracker):
    level, levels = 0, []
    for event in tracker.events:
        size = tracker.storages[event.storage].nbytes
        level += {"alloc": size, "free": -size}.get(event.kind, 0)
        levels.append(level)
    return levels


def _priced(folder, loop, *, lora=False, checkpointing=False, accumulation=1):
    import json

    from vramplan.planner.adapters.folder import read_folder
    from vramplan.planner.memory.price import Pricing, Question
    from vramplan.planner.memory.structure import program_key
    from vramplan.planner.methods import Full, Lora
    from vramplan.planner.trace.build import build_program
    from vramplan.planner.training_setup import Precision, TrainingSetup
    from vramplan.planner.workload import Workload

    (folder / "config.json").write_text(json.dumps(CONFIG))
    spec = read_folder(folder)
    setup = TrainingSetup(
        method=Lora(r=4, lora_alpha=8) if lora else Full(),
        precision=Precision(dtype="fp32", mixed_precision="no", adapter_dtype="fp32"),
        optimizer="adamw_torch",
        micro_batch_size=BATCH,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=checkpointing,
        loss="standard",
        loop=loop,
    )
    workload = Workload(sequence_length=LENGTH)
    program = build_program(program_key(spec, workload, setup, "cpu", None))
    return Pricing(Question(spec, workload, setup, "cpu"), program).budget(with_tensors=False)


def _checkpoint(model, *, lora):
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if lora:
        model.enable_input_require_grads()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_a_loop_written_by_hand_peaks_and_ends_where_it_is_said_to(tmp_path, lora, checkpointing):
    import torch

    from vramplan.planner.trace.rng_states import seen_states
    from vramplan.planner.trace.tracker import exact_lifetimes

    model = _model(lora=lora)
    model.train()
    if checkpointing:
        _checkpoint(model, lora=lora)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, foreach=False)
    batch = _batch()
    tracker = _tracker(model, batch.values())
    ends = []
    with seen_states(tracker), exact_lifetimes(), tracker:
        for _ in range(3):
            optimizer.zero_grad()
            outputs = model(**batch)
            loss = outputs.loss
            loss.backward()
            optimizer.step()
            ends.append(len(tracker.events))
        levels = _levels(tracker)
    del outputs, loss
    budget = _priced(tmp_path, "plain", lora=lora, checkpointing=checkpointing)
    assert levels[ends[-1] - 1] == budget.steady_allocated_bytes
    assert abs(max(levels) - budget.peak_allocated_bytes) <= SCALARS


SCALARS = 64
"""Bytes of tensors of one element that autograd and the loop hold for a moment."""


@pytest.mark.parametrize(
    ("lora", "checkpointing", "accumulation"), [(False, False, 1), (False, True, 3), (True, False, 3), (True, True, 1)]
)
@pytest.mark.filterwarnings("ignore")
def test_the_stock_trainer_peaks_where_it_is_said_to(tmp_path, lora, checkpointing, accumulation):
    from transformers import Trainer, TrainingArguments, default_data_collator

    from vramplan.planner.trace.rng_states import seen_states
    from vramplan.planner.trace.tracker import exact_lifetimes

    model = _model(lora=lora)
    rows = [{name: tensor[0].clone() for name, tensor in _batch().items()} for _ in range(BATCH * accumulation * 4)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=checkpointing,
        max_steps=3,
        optim="adamw_torch",
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    if checkpointing and lora:
        model.enable_input_require_grads()
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=default_data_collator)
    tracker = _tracker(model)
    with seen_states(tracker), exact_lifetimes(), tracker:
        trainer.train()
        levels = _levels(tracker)
    budget = _priced(tmp_path, "trainer", lora=lora, checkpointing=checkpointing, accumulation=accumulation)
    assert abs(max(levels) - budget.peak_allocated_bytes) <= SCALARS


@pytest.mark.parametrize("trains", [True, False])
def test_ligers_loss_makes_a_chunk_of_logits_at_a_time_and_both_gradients_in_the_forward(trains):
    """By hand from liger-kernel 0.8.5: 96 tokens, h = 64, V = 300: ceil(300 / 64) = 5, ceil(96 / 5) = 20, next power
    of two 32 rows. In bf16 2 x (96 x 64 + 32 x 300), the head's 2 x 300 x 64 if it trains, 4 x 96 losses, 96 flags."""
    import torch

    from vramplan.planner.trace.liger import _FusedLinearCrossEntropy
    from vramplan.planner.trace.tracker import Tracker, exact_lifetimes

    hidden = torch.randn(96, 64, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(300, 64, dtype=torch.bfloat16, requires_grad=trains)
    target = torch.zeros(96, dtype=torch.long)
    for _ in range(2):  # the first call under a dispatch mode leaves a reference in PyTorch's caches
        tracker = Tracker()
        for tensor in (hidden, weight, target):
            tracker.see(tensor)
        before = sum(storage.nbytes for storage in tracker.storages)
        with exact_lifetimes(), tracker:
            loss = _FusedLinearCrossEntropy.apply(hidden, weight, target)
            levels = _levels(tracker)
    kept = 2 * 96 * 64 + (2 * 300 * 64 if trains else 0)
    assert max(levels) - before == kept + 4 * 96 + 96 + 2 * 32 * 300
    assert levels[-1] - before == kept + loss.element_size()
