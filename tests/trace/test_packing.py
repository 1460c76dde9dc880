"""A packed row, collated by TRL itself, in a real step on the CPU beside its program."""

import pytest

from tests.trace.tiny_models import LLAMA_SIZES, assert_llama_exact, llama_key

pytestmark = pytest.mark.train

SIZES = {**LLAMA_SIZES, "B": 1, "S": 96, "Q": 3, "N": 93}


@pytest.mark.parametrize(
    "mode",
    [
        {"method": "full", "loss": "fused"},
        {"method": "lora", "loss": "standard", "gradient_checkpointing": False},
    ],
    ids=["full, fused", "lora, standard, no checkpointing"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_program_gives_the_bytes_of_a_real_step_on_documents_in_a_row(mode):
    assert_llama_exact(llama_key({**mode, "packing": True}, single_row=True), SIZES)
