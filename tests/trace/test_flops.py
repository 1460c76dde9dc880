"""Operations counted from weights against torch's own counter on a real step: equal to the last product."""

import json

import pytest

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
}
CONFIGS = {
    "llama": {"architectures": ["LlamaForCausalLM"], **SIZES},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": True, **SIZES},
    "gemma2": {"architectures": ["Gemma2ForCausalLM"], "head_dim": 16, "sliding_window": 4096, **SIZES},
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": 300,
        "n_embd": 64,
        "n_layer": 3,
        "n_head": 4,
        "resid_pdrop": 0.1,
    },
    "mixtral": {
        "architectures": ["MixtralForCausalLM"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "experts_implementation": "eager",
        **SIZES,
    },
}
ROWS, LENGTH = 2, 16


def _counted(folder, method, checkpointing, **more):
    """Our count of one micro step, in all."""
    from vramplan.planner.adapters.models import resolve_model
    from vramplan.planner.resolve import resolve
    from vramplan.planner.throughput.flops import count_work

    model = resolve_model(str(folder))
    given = {"method": method, "sequence_length": LENGTH, "micro_batch": ROWS, "gradient_checkpointing": checkpointing}
    given |= {"attention": "eager", "loss": "standard", "loop": "plain", "mixed_precision": "no"}
    found = resolve(given | more | ({"rank": 4} if method == "lora" else {}), model, None)
    return count_work(model, found.workload, found.setup).flops


def _measured(folder, method, checkpointing):
    """torch's count of the same step on real tensors."""
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="eager")
    model.config.use_cache = False
    if method == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    if method == "last block":
        model.requires_grad_(False)
        layers = model.transformer.h if hasattr(model, "transformer") else model.model.layers
        layers[-1].requires_grad_(True)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if method == "lora":
            model.enable_input_require_grads()
        if method == "last block":
            model.disable_input_require_grads()
    ids = torch.randint(3, 300, (ROWS, LENGTH))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2"])
def test_the_operations_of_a_step_are_those_torch_counts(family, method, checkpointing, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **CONFIGS[family]}))
    assert _counted(tmp_path, method, checkpointing) == _measured(tmp_path, method, checkpointing)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_so_are_those_of_the_last_block_alone(family, checkpointing, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **CONFIGS[family]}))
    counted = _counted(tmp_path, "full", checkpointing, trainable_blocks=1)
    assert counted == _measured(tmp_path, "last block", checkpointing)


def test_of_a_mixture_of_experts_the_router_alone_is_left_out(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mixtral", **CONFIGS["mixtral"]}))
    router = 3 * 2 * (64 * 4) * ROWS * LENGTH * 3  # forward and two gradients of 64 x 4, three layers
    assert _counted(tmp_path, "full", False) + router == _measured(tmp_path, "full", False)
