"""Training of the last blocks alone: its programs and counts against real models and their real steps, to the byte."""

import pytest

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

LLAMA = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_hidden_layers": 7,
}


@pytest.mark.parametrize("checkpointing", [True, False], ids=["recomputed", "kept"])
@pytest.mark.parametrize("blocks", [1, 2, 3, 5, 7])
def test_the_last_blocks_of_a_decoder_are_priced_exactly(blocks, checkpointing):
    """One to three of them are programs of their own; of five the middle ones are alike; seven are all there are."""
    from tests.trace.tiny_models import assert_exact
    from vramplan.planner.methods import Full

    config = {**LLAMA, "tie_word_embeddings": blocks == 2}
    assert_exact(config, "causal-lm", Full(trainable_blocks=blocks), gradient_checkpointing=checkpointing)


@pytest.mark.parametrize("family", ["bert", "modernbert", "qwen3", "t5", "bart"])
def test_so_are_a_classifiers_and_a_decoders_beside_an_encoder(family):
    from tests.trace.test_tasks import DECODERS, ENCODERS, SEQ2SEQ
    from tests.trace.tiny_models import assert_exact
    from vramplan.planner.methods import Full

    task = "seq2seq" if family in SEQ2SEQ else "classification"
    assert_exact((ENCODERS | DECODERS | SEQ2SEQ)[family], task, Full(trainable_blocks=2))


@pytest.mark.parametrize("checkpointing", [True, False], ids=["recomputed", "kept"])
def test_a_frozen_layer_below_keeps_nothing_for_the_backward(checkpointing):
    """The step's activations are those of the blocks that train: twice the layers below cost no byte more."""
    from tests.trace.tiny_models import question_of, replayed, spec_of
    from vramplan.planner.methods import Full

    peaks = []
    for depth in (6, 12):
        spec = spec_of({**LLAMA, "num_hidden_layers": depth}, "causal-lm")
        question = question_of(spec, "causal-lm", Full(trainable_blocks=2), gradient_checkpointing=checkpointing)
        _, found = replayed(spec, *question)
        peaks.append(found.peaks["backward"].total_bytes)
    assert peaks[0] == peaks[1]
