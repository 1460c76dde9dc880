"""A packed row, collated by TRL itself, in a real step on the CPU beside its program."""

import contextlib

import pytest

pytestmark = pytest.mark.train

KINDS = ("full_attention",) * 6
SIZES = {"B": 1, "S": 96, "h": 64, "f": 176, "H": 4, "K": 2, "d": 16, "V": 300, "r": 4, "Q": 3, "N": 93}


@pytest.mark.parametrize(
    "mode",
    [
        {"method": "full", "loss": "fused"},
        {"method": "lora", "adapter_dtype": "fp32", "loss": "standard", "gradient_checkpointing": False},
    ],
    ids=["full, fused", "lora, standard, no checkpointing"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_program_gives_the_bytes_of_a_real_step_on_documents_in_a_row(mode):
    from vramplan.planner.memory.replay import At, Replay
    from vramplan.planner.programs.key import Mode, ProgramKey, Structure
    from vramplan.planner.trace import loss
    from vramplan.planner.trace.build import build_program, measure, trace_config
    from vramplan.planner.trace.record import Case, build_model, run_tracked
    from vramplan.planner.trace.tracker import Tracker

    fields = {"hidden_act": "silu", "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False}
    key = ProgramKey(
        structure=Structure(
            model_type="llama",
            fields=fields,
            kinds=KINDS[:4],
            heads="gqa",
            aligned_heads=True,
            single_row=True,
            windowed=False,
        ),
        mode=Mode(route="cpu", dtype="fp32", packing=True, **mode),
    )
    replayed = Replay(build_program(key), At(SIZES, KINDS, 1)).run()
    case = Case(trace_config(key, SIZES, KINDS), key.mode, 1, SIZES["S"], SIZES["r"], documents=SIZES["Q"])
    model = build_model(case, real=True)
    tracker = Tracker()
    with contextlib.ExitStack() as stack:
        if key.mode.loss == "fused":
            stack.enter_context(loss.fused_loss("cpu", tracker, as_macro=False))
        run_tracked(model, case, tracker, real=True)
    peaks, end = measure(tracker, 1)
    assert {phase: peak.total_bytes for phase, peak in replayed.peaks.items()} == peaks
    assert replayed.end_bytes == end
