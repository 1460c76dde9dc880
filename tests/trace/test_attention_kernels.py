"""Which kernel scaled-dot-product attention runs on a GPU, and what the path without one takes."""

import pytest

torch = pytest.importorskip("torch")
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]


class _Names(TorchDispatchMode):
    """The operations that run, by name."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def _tensors(heads, shared, length, dtype):
    return [torch.randn(2, number, length, 32, requires_grad=True).to(dtype) for number in (heads, shared, shared)]


@pytest.mark.parametrize(
    ("dtype", "shared", "masked", "ampere", "kernel"),
    [
        ("bfloat16", 2, False, True, "_scaled_dot_product_flash_attention"),
        ("float16", 2, False, False, "_safe_softmax"),
        ("float16", 8, False, False, "_scaled_dot_product_efficient_attention"),
        ("bfloat16", 8, False, False, "_safe_softmax"),
        ("float32", 2, False, True, "_safe_softmax"),
        ("float32", 8, False, True, "_scaled_dot_product_efficient_attention"),
        ("bfloat16", 8, True, True, "_scaled_dot_product_efficient_attention"),
    ],
)
def test_cuda_takes_the_kernel_that_its_conditions_leave(dtype, shared, masked, ampere, kernel):
    """sdp_utils.cpp of PyTorch 2.13: FlashAttention from compute capability 8.0, in half precision and without a mask;
    the memory-efficient kernel without heads that share keys, and below 8.0 without bf16."""
    from vramplan.planner.trace.attention import cuda_sdpa

    with FakeTensorMode(allow_non_fake_inputs=True), _Names() as names:
        mask = torch.ones(2, 1, 64, 64, dtype=torch.bool) if masked else None
        query, key, value = _tensors(8, shared, 64, getattr(torch, dtype))
        cuda_sdpa(query, key, value, mask, is_causal=not masked, enable_gqa=True, ampere=ampere)
    assert kernel in names.seen, names.seen


def _profiled(run):
    """The most that was allocated at once while ``run`` ran, by torch's profiler, which sees the allocator."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    now = peak = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_path_without_a_kernel_takes_what_the_allocator_hands_out(dtype):
    """The composition is the same on every device; here it runs on a CPU, where the profiler sees its allocator."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from vramplan.planner.trace.attention import cuda_sdpa
    from vramplan.planner.trace.kernel_buffers import CUDA_BUFFERS
    from vramplan.planner.trace.tracker import Tracker

    def step(attend):
        query, key, value = _tensors(8, 2, 96, getattr(torch, dtype))
        out = attend(query, key, value, is_causal=True, enable_gqa=True)
        out.backward(torch.ones_like(out))

    with sdpa_kernel(SDPBackend.MATH):
        real = _profiled(lambda: step(torch.nn.functional.scaled_dot_product_attention))
    with FakeTensorMode(allow_non_fake_inputs=True):
        tracker = Tracker(internal=CUDA_BUFFERS)
        with tracker:
            step(lambda *args, **kwargs: cuda_sdpa(*args, **kwargs, ampere=False))
    now = peak = 0
    for event in tracker.events:
        size = tracker.storages[event.storage].nbytes
        now += size if event.kind == "alloc" else -size
        peak = max(peak, now)
    assert peak == real
