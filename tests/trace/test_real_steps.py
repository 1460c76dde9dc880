"""Programs against real steps: the same micro step on real tensors, tracked live, gives the same bytes."""

import pytest

pytestmark = pytest.mark.train

SIZES = {"B": 2, "S": 48, "h": 64, "f": 176, "H": 4, "K": 2, "d": 16, "V": 300, "r": 4}


def _mode(**changes):
    from vramplan.planner.programs.key import Mode

    fields = {"route": "cpu", "method": "full", "dtype": "fp32", **changes}
    if fields["method"] != "full":
        fields.setdefault("adapter_dtype", "fp32")
    return Mode(**fields)


def _key(mode, model_type="llama", tied=False, biases=False, **structure):
    from vramplan.planner.programs.key import ProgramKey, Structure

    fields = {"hidden_act": "silu", "tie_word_embeddings": tied, "attention_bias": biases, "mlp_bias": biases}
    shape = {"heads": "gqa", "aligned_heads": True, "single_row": False, "windowed": False, **structure}
    return ProgramKey(
        structure=Structure(model_type=model_type, fields=fields, kinds=("full_attention",) * 4, **shape),
        mode=mode,
    )


def _real_peaks(key, sizes, kinds):
    """Peaks per phase of the step on real tensors."""
    import contextlib

    from vramplan.planner.trace import loss, quantize
    from vramplan.planner.trace.build import measure, trace_config
    from vramplan.planner.trace.record import Case, build_model, run_tracked
    from vramplan.planner.trace.tracker import Tracker

    case = Case(trace_config(key, sizes, kinds), key.mode, sizes["B"], sizes["S"], sizes["r"], method_sizes=sizes)
    model = build_model(case, real=True)
    tracker = Tracker(replace=quantize.opened_kernels() if key.mode.quant else {})
    with contextlib.ExitStack() as stack:
        if key.mode.loss == "fused":
            stack.enter_context(loss.fused_loss(key.mode.route, tracker, as_macro=False))
        run_tracked(model, case, tracker, real=True)
    return measure(tracker, 1)


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("loss", ["fused", "standard"])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.filterwarnings("ignore")
def test_a_program_gives_the_bytes_of_a_real_step(method, loss, checkpointing):
    _assert_equal(_key(_mode(method=method, loss=loss, gradient_checkpointing=checkpointing)))


@pytest.mark.parametrize(
    "mode",
    [
        {"method": "lora", "dropout": True},
        {"method": "lora", "use_dora": True},
        {"method": "qlora", "quant": "nf4", "double_quant": True, "adapter_dtype": "bf16"},
        {"method": "lora", "target_modules": ("down_proj", "gate_proj", "up_proj"), "gradient_checkpointing": False},
        {"method": "full", "dtype": "bf16", "attention": "eager"},
    ],
    ids=["dropout", "dora", "qlora", "adapters on the MLP alone", "bf16 eager"],
)
@pytest.mark.filterwarnings("ignore")
def test_so_do_the_rarer_modes(mode):
    _assert_equal(_key(_mode(**mode)))


def _assert_equal(key, sizes=SIZES):
    from vramplan.planner.memory.replay import At, Replay
    from vramplan.planner.trace.build import build_program

    program = build_program(key)
    kinds = ("full_attention",) * 6
    sizes = {**sizes, "N": sizes["B"] * (sizes["S"] - 1)}
    replayed = Replay(program, At(sizes, kinds, 1)).run()
    peaks, end = _real_peaks(key, sizes, kinds)
    assert {phase: peak.total_bytes for phase, peak in replayed.peaks.items()} == peaks
    assert replayed.end_bytes == end
