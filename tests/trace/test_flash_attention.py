"""FlashAttention 2, which no CPU runs: what its stand-in allocates beside PyTorch's own flash kernels and by hand."""

import pytest

from tests.trace.tiny_models import LLAMA_LAYERS, llama_key

pytestmark = pytest.mark.train

B, S, H, K, D = 2, 200, 8, 2, 64


def _inputs(length=S, head_dim=D):
    import torch

    def made(heads):
        return torch.empty(B, length, heads, head_dim, dtype=torch.bfloat16, requires_grad=True)

    return made(H), made(K), made(K)


def _tracked(run):
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from vramplan.planner.trace.tracker import Tracker, exact_lifetimes

    with FakeTensorMode():
        inputs = _inputs()
        tracker = Tracker(gathers_tokens=True)
        for tensor in inputs:
            tracker.see(tensor)
        with exact_lifetimes(), tracker:
            out = run(*inputs)
            saved = sum(s.nbytes for s in tracker.storages[3:] if not _died(tracker, s.index))
            gradient = torch.empty_like(out)
            before = len(tracker.storages)
            out.backward(gradient)
        born = tracker.storages[before:]
    return saved, sorted(storage.nbytes for storage in born)


def _died(tracker, index):
    return any(event.kind == "free" and event.storage == index for event in tracker.events)


def _library(name):
    """The function transformers calls, inside the stand-in."""
    import transformers.modeling_flash_attention_utils as utilities

    from vramplan.planner.trace.flash_attention import flash_attention_2

    with flash_attention_2():
        functions, _ = utilities.lazy_import_flash_attention("flash_attention_2")
    return dict(zip(("same", "varying", "cache", "pad", "unpad"), functions, strict=True))[name]


def test_rows_of_one_length_save_their_output_and_a_logsumexp_and_borrow_what_the_kernel_needs():
    saved, born = _tracked(_library("same"))
    assert saved == B * S * H * D * 2 + B * H * S * 4 + 16
    rounded = 256  # 200 rows in blocks of 128
    by_hand = [
        B * S * H * D * 2,  # dq
        *[B * S * K * D * 2] * 2,  # dk, dv
        B * H * rounded * 4,  # softmax_d
        B * rounded * H * D * 4,  # dq_accum
        *[B * S * H * D * 2] * 2,  # dk and dv of every query head
    ]
    assert born == sorted(by_hand)


def test_rows_taken_together_pad_the_kernels_buffers_by_a_block_each():
    import torch

    tokens = B * S

    def run(q, k, v):
        ends = torch.empty(B + 1, dtype=torch.int32)
        flat = (tensor.view(tokens, tensor.shape[2], D) for tensor in (q, k, v))
        return _library("varying")(*flat, ends, ends, S, S)

    saved, born = _tracked(run)
    assert saved == tokens * H * D * 2 + H * tokens * 4 + 16 + 4 * (B + 1)
    buffers = (tokens + 128 * B) * H * 4 * (1 + D)  # softmax_d and dq_accum
    gradients = tokens * D * 2 * (H + 2 * K + 2 * H)
    assert sum(born) == buffers + gradients


SIZES = {"B": 2, "S": 1000, "h": 512, "f": 1024, "H": 8, "K": 2, "d": 64, "V": 3000, "r": 4, "N": 1990}


def _peaks(**changes):
    from vramplan.planner.memory.replay import At, Replay
    from vramplan.planner.trace.build import build_program

    key = llama_key({"route": "cuda", "dtype": "bf16", "gradient_checkpointing": False, **changes})
    replayed = Replay(build_program(key), At(SIZES, LLAMA_LAYERS, 512)).run()
    return {phase: peak.total_bytes for phase, peak in replayed.peaks.items()}


@pytest.mark.filterwarnings("ignore")
def test_a_step_without_padding_is_that_of_pytorchs_own_flash_kernel():
    """PyTorch's keeps one more number a layer, the offset of the generator: a block of 512 bytes."""
    ours, pytorchs = _peaks(attention="flash_attention_2"), _peaks(attention="sdpa")
    assert {phase: pytorchs[phase] - ours[phase] for phase in ours} == dict.fromkeys(ours, 512 * len(LLAMA_LAYERS))


@pytest.mark.filterwarnings("ignore")
def test_padding_costs_copies_without_it_and_no_mask():
    """Of queries, keys and values, what the kernel saves are copies; the originals die (their product's factors too),
    and the output is put back into zeros, which is what the projection saves. Every layer also keeps its own indices
    (int64) and ends, twice the indices' copies for the two gathers that share them."""
    plain, padded = _peaks(attention="flash_attention_2"), _peaks(attention="flash_attention_2", padded=True)
    tokens = SIZES["B"] * SIZES["S"]
    out = tokens * SIZES["H"] * SIZES["d"] * 2
    extra = padded["loss"] - plain["loss"]
    assert extra >= len(LLAMA_LAYERS) * (out + 8 * tokens)
    assert extra <= len(LLAMA_LAYERS) * (out + 8 * tokens + 4 * 512)
