"""What LoRA has beside adapters on linears, in real steps on the CPU beside their programs and counts."""

from typing import Any

import pytest

from tests.trace.tiny_models import assert_exact

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

LLAMA = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": False,
}
TIED = {**LLAMA, "tie_word_embeddings": True}
GPT2 = {"model_type": "gpt2", "vocab_size": 300, "n_embd": 64, "n_layer": 5, "n_head": 4, "n_positions": 64}
DROPPING = {**LLAMA, "attention_dropout": 0.1}
EMBEDDINGS = {"target_modules": ("q_proj", "embed_tokens")}
TOKENS = {"trainable_token_indices": (3, 4, 5)}
KEEPING: dict[str, Any] = {"gradient_checkpointing": False}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "embeddings": (LLAMA, EMBEDDINGS, {}),
    "embeddings, dropout": (LLAMA, EMBEDDINGS | {"lora_dropout": 0.1}, {}),
    "tied embeddings, DoRA": (TIED, EMBEDDINGS | {"use_dora": True}, KEEPING),
    "GPT-2's tables": (GPT2, {"target_modules": ("c_attn", "wte", "wpe")}, {}),
    "tokens": (LLAMA, TOKENS, {}),
    "tokens, and the head in full": (LLAMA, TOKENS | {"modules_to_save": ("lm_head",)}, {}),
    "tokens of tied embeddings": (TIED, TOKENS, KEEPING | {"loss": "standard"}),
    "embeddings in full": (LLAMA, {"modules_to_save": ("embed_tokens",)}, {}),
    "tied embeddings in full, the head left": (TIED, {"modules_to_save": ("embed_tokens",)}, {}),
    "a tied head in full, the embeddings left": (TIED, {"modules_to_save": ("lm_head",)}, {}),
    "both dropouts": (DROPPING, {"lora_dropout": 0.1}, {}),
    "both dropouts, eager, all kept": (DROPPING, {"lora_dropout": 0.1}, KEEPING | {"attention": "eager"}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_variants_program_gives_the_bytes_of_its_real_step(name: str) -> None:
    from vramplan.planner.methods import Lora

    config, method, setup = CASES[name]
    assert_exact(config, "causal-lm", Lora(r=4, **method), **setup)


@pytest.mark.parametrize("beginning", ["pissa", "pissa_niter_4"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("rows", "columns"), [(256, 128), (128, 256)])
def test_pissa_takes_a_linear_apart_in_what_is_counted(beginning: str, dtype: str, rows: int, columns: int) -> None:
    from peft import get_peft_model
    from torch import nn

    from tests.fakes import make_model_spec
    from vramplan.planner.memory.phases import decomposing_bytes
    from vramplan.planner.methods import Lora
    from vramplan.planner.model_spec import Weight
    from vramplan.planner.trace.adapters import peft_config
    from vramplan.planner.trace.skeleton import TORCH_DTYPES
    from vramplan.planner.trace.tracker import Tracker, exact_lifetimes
    from vramplan.planner.training_setup import Precision, TrainingSetup

    method = Lora(r=4, target_modules=("0",), init_lora_weights=beginning)
    setup = TrainingSetup(method=method, precision=Precision(dtype=dtype))
    weight = Weight(name="0.weight", shape=(rows, columns), dtype=dtype, module="linear")
    base = nn.Sequential(nn.Linear(columns, rows, bias=False)).to(TORCH_DTYPES[dtype])
    tracker = Tracker()
    tracker.see(base[0].weight)
    config = peft_config(method)
    config.task_type = None  # a bare linear is no language model
    with exact_lifetimes(), tracker:
        get_peft_model(base, config)
    level = highest = 0
    for event in tracker.events[1:]:
        size = tracker.storages[event.storage].nbytes
        level += size if event.kind == "alloc" else -size
        highest = max(highest, level)
    new_factors = 4 * 4 * (rows + columns)
    assert highest == sum(decomposing_bytes(make_model_spec(weights=(weight,)), setup)) + new_factors


def test_an_adapter_from_pissa_is_itself_again_on_a_fresh_base(tmp_path: Any) -> None:
    import copy

    import torch
    from peft import PeftModel
    from transformers import LlamaConfig, LlamaForCausalLM

    from vramplan.planner.methods import Lora
    from vramplan.planner.trace.adapters import apply_method

    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**{name: value for name, value in LLAMA.items() if name != "model_type"}))
    fresh, ids = copy.deepcopy(base).eval(), torch.arange(20).view(1, 20)
    tuned = apply_method(base, Lora(r=4, init_lora_weights="pissa"), adapter_dtype="fp32").eval()
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter += 0.01
        wanted, before = tuned(ids).logits, fresh(ids).logits
        tuned.save_pretrained(tmp_path)
        found = PeftModel.from_pretrained(fresh, tmp_path).eval()(ids).logits
    assert torch.allclose(found, wanted, atol=1e-4)
    assert not torch.allclose(found, before, atol=1e-4)
