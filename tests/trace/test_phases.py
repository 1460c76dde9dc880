"""Phases beside the training step, run for real where a CPU can."""

import tempfile

import pytest

from tests.trace.tiny_models import LLAMA_LAYERS, LLAMA_SIZES, llama_key

pytestmark = pytest.mark.train


def _evaluated(key):
    """The highest point of a real evaluation step above the model and the batch."""
    import torch

    from vramplan.planner.trace.build import trace_config
    from vramplan.planner.trace.record import Case, build_model, declare_static
    from vramplan.planner.trace.step import language_batch
    from vramplan.planner.trace.tracker import Tracker, exact_lifetimes

    sizes = LLAMA_SIZES
    case = Case(trace_config(key, sizes, LLAMA_LAYERS), key.mode, sizes["B"], sizes["S"], sizes["r"])
    model = build_model(case, real=True).eval()
    batch = language_batch(sizes["B"], sizes["S"], real=True, vocab_size=sizes["V"])
    tracker = Tracker()
    declare_static(model, tracker)
    for tensor in batch.values():
        tracker.see(tensor)
    before = len(tracker.storages)
    with exact_lifetimes(), tracker, torch.no_grad():
        loss = model(**batch, use_cache=False).loss
    del loss
    level = highest = 0
    for event in tracker.events:
        if event.storage >= before:
            size = tracker.storages[event.storage].nbytes
            level += size if event.kind == "alloc" else -size
            highest = max(highest, level)
    return highest


@pytest.mark.parametrize(("checkpointing", "at_most"), [(True, 1.1), (False, 2.0)])
@pytest.mark.filterwarnings("ignore")
def test_evaluation_takes_no_more_than_is_counted(checkpointing, at_most):
    """Without checkpointing the count keeps what one layer would save; a real step drops it within the layer."""
    from vramplan.planner.memory.replay import At, Replay
    from vramplan.planner.trace.build import build_program

    key = llama_key({"loss": "standard", "gradient_checkpointing": checkpointing})
    counted = Replay(build_program(key), At(LLAMA_SIZES, LLAMA_LAYERS, 1)).forward_alone().total_bytes
    real = _evaluated(key)
    assert real <= counted <= at_most * real


@pytest.mark.filterwarnings("ignore")
def test_saving_copies_nothing_but_experts_that_are_taken_apart():
    """transformers 5 fuses Mixtral's experts while loading; its checkpoint has them one by one."""
    from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

    from vramplan.planner.trace.tracker import Tracker, exact_lifetimes

    sizes = {
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 300,
        "num_hidden_layers": 3,
    }
    copied = {}
    for kind, config in ((LlamaForCausalLM, LlamaConfig(**sizes)), (MixtralForCausalLM, MixtralConfig(**sizes))):
        model = kind(config)
        tracker = Tracker()
        for tensor in (*model.parameters(), *model.buffers()):
            tracker.see(tensor)
        before = len(tracker.storages)
        with tempfile.TemporaryDirectory() as folder, exact_lifetimes(), tracker:
            model.save_pretrained(folder)
        copied[kind.__name__] = sum(storage.nbytes for storage in tracker.storages[before:])
    gate_up = sum(p.numel() * 4 for name, p in model.named_parameters() if "gate_up_proj" in name)
    assert copied == {"LlamaForCausalLM": 0, "MixtralForCausalLM": gate_up}


def test_a_merged_linear_passes_through_two_products_of_its_size():
    import torch
    from peft import LoraConfig, get_peft_model
    from torch import nn

    from vramplan.planner.trace.tracker import Tracker, exact_lifetimes

    model = get_peft_model(nn.Sequential(nn.Linear(256, 128, bias=False)), LoraConfig(r=4, target_modules=["0"]))
    layer = model.base_model.model[0]
    tracker = Tracker()
    for tensor in model.parameters():
        tracker.see(tensor)
    before = len(tracker.storages)
    with exact_lifetimes(), tracker, torch.no_grad():
        layer.merge()
    level = highest = 0
    for event in tracker.events:
        if event.storage >= before:
            size = tracker.storages[event.storage].nbytes
            level += size if event.kind == "alloc" else -size
            highest = max(highest, level)
    assert highest == 2 * 256 * 128 * 4
