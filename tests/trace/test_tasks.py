"""Classification and sequence-to-sequence: programs and counts against real models and their real steps."""

import pytest

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

SMALL = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 144}
BERT = {"vocab_size": 300, "max_position_embeddings": 512, **SMALL}
ENCODERS = {
    "bert": {"model_type": "bert", **BERT},
    "roberta": {"model_type": "roberta", **BERT, "max_position_embeddings": 514, "type_vocab_size": 1},
    "electra": {"model_type": "electra", **BERT, "embedding_size": 32},
    "deberta": {
        "model_type": "deberta-v2",
        **BERT,
        "relative_attention": True,
        "position_buckets": 64,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    "distilbert": {
        "model_type": "distilbert",
        "vocab_size": 300,
        "dim": 64,
        "n_layers": 6,
        "n_heads": 4,
        "hidden_dim": 144,
        "max_position_embeddings": 512,
    },
    "modernbert": {"model_type": "modernbert", "vocab_size": 50368, **SMALL},
    "mpnet": {"model_type": "mpnet", **BERT, "max_position_embeddings": 514},
    "albert": {"model_type": "albert", **BERT, "embedding_size": 32},
}
EAGER = ("deberta", "mpnet", "t5gemma")
WITHOUT_CHECKPOINTING = ("mpnet", "albert")
DECODER = {"vocab_size": 300, "num_key_value_heads": 2, **SMALL}
DECODERS = {"llama": {"model_type": "llama", **DECODER}, "qwen3": {"model_type": "qwen3", "head_dim": 16, **DECODER}}
GEMMA_HALF = {**DECODER, "num_hidden_layers": 4, "head_dim": 16, "sliding_window": 4096}
SEQ2SEQ = {
    "t5": {
        "model_type": "t5",
        "vocab_size": 300,
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 144,
        "num_layers": 6,
        "num_decoder_layers": 5,
        "num_heads": 4,
    },
    "bart": {
        "model_type": "bart",
        "vocab_size": 300,
        "d_model": 64,
        "encoder_layers": 6,
        "decoder_layers": 5,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 144,
        "decoder_ffn_dim": 144,
        "max_position_embeddings": 512,
    },
    "t5gemma": {"model_type": "t5gemma", "vocab_size": 300, "encoder": GEMMA_HALF, "decoder": GEMMA_HALF},
}


def _methods():
    from vramplan.planner.methods import Full, Lora

    return {"full": Full(), "lora": Lora(r=4)}


def _attention(family):
    return "eager" if family in EAGER else "sdpa"


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", [*ENCODERS, *DECODERS])
def test_a_classifiers_program_gives_the_bytes_of_its_real_step(family, method):
    from tests.trace.tiny_models import assert_exact

    config = (ENCODERS | DECODERS)[family]
    checkpointing = family not in WITHOUT_CHECKPOINTING
    assert_exact(
        config, "classification", _methods()[method], attention=_attention(family), gradient_checkpointing=checkpointing
    )


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", SEQ2SEQ)
@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_sequence_to_sequence_program_gives_the_bytes_of_its_real_step(family, method, checkpointing):
    from tests.trace.tiny_models import assert_exact

    attention = _attention(family)
    assert_exact(
        SEQ2SEQ[family], "seq2seq", _methods()[method], attention=attention, gradient_checkpointing=checkpointing
    )


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("kind", ["prefix", "prompt", "ptuning"])
def test_virtual_tokens_of_two_halves_are_priced_exactly(kind, family):
    """A prompt before the encoder's tokens; a prefix before the decoder's, of as many layers as the decoder has."""
    from tests.trace.tiny_models import assert_exact
    from vramplan.planner.methods import Prefix, Prompt, Ptuning

    methods = {
        "prefix": Prefix(num_virtual_tokens=5),
        "prompt": Prompt(num_virtual_tokens=5),
        "ptuning": Ptuning(num_virtual_tokens=5, encoder_hidden_size=24),
    }
    assert_exact(SEQ2SEQ[family], "seq2seq", methods[kind], gradient_checkpointing=kind != "prefix")


def test_rows_that_peft_would_add_for_a_decoder_never_train():
    """So a prompt is put before the encoder alone: half of PEFT's default has no gradient."""
    torch = pytest.importorskip("torch")
    import peft

    from vramplan.planner.methods import Prompt
    from vramplan.planner.trace.adapters import apply_method
    from vramplan.planner.trace.weights import build_config, task_model

    config = build_config({**SEQ2SEQ["t5"], "decoder_start_token_id": 0, "pad_token_id": 0})

    def gradients(wrap):
        model = wrap(task_model(config, "seq2seq", None).to_empty(device="cpu"))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        ids = torch.arange(3, 27).reshape(2, 12)
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
        (rows,) = (parameter.grad for parameter in model.parameters() if parameter.requires_grad)
        return [bool(row.any()) for row in rows]

    theirs = peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3)
    assert gradients(lambda model: peft.get_peft_model(model, theirs)) == [True] * 3 + [False] * 3
    ours = Prompt(num_virtual_tokens=3)
    assert gradients(lambda model: apply_method(model, ours, adapter_dtype="fp32")) == [True] * 3


def test_as_many_heads_as_a_prefix_has_numbers_are_not_taken_for_layers():
    """Four layers have eight keys and values of a prefix, and this model eight heads."""
    from tests.trace.tiny_models import assert_exact
    from vramplan.planner.methods import Prefix

    config = {**SEQ2SEQ["t5"], "num_heads": 8, "d_model": 128}
    assert_exact(config, "seq2seq", Prefix(num_virtual_tokens=5), gradient_checkpointing=False)
