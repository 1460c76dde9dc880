"""Memory programs as JSON: what is written is what is read, and nothing else is read."""

import json
from typing import Any

import pytest

from vramplan.planner.adapters import programs
from vramplan.planner.programs.codec import dump_program, load_program
from vramplan.planner.programs.key import Mode, ProgramKey, Structure
from vramplan.planner.programs.program import Accumulate, Alloc, Anchor, Block, Free, MacroCall, Program, Ref, Size


def every_kind_of_entry() -> Program:
    structure = Structure(
        model_type="gemma3_text",
        fields={"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "final_logit_softcapping": None},
        kinds=("sliding_attention", "full_attention"),
        heads="mqa",
        aligned_heads=True,
        single_row=False,
        windowed=True,
    )
    macro = MacroCall(
        "fused_forward",
        (("tokens", Size(1, ("N",))), ("hidden", Size(1, ("h",))), ("vocabulary", Size(2, ("V", "r")))),
        (("compute_bytes", 2), ("head_trains", False), ("softcap", True)),
    )
    mode = Mode(route="cuda", method="qlora", target_modules=("q_proj", "v_proj"))
    return Program(
        key=ProgramKey(structure=structure, mode=mode),
        versions={"torch": "2.13.0"},
        radius=1,
        sizes=(Size(2, ("B", "S", "h")), Size(4, ("K",), 16384, ("H", "d", "h")), Size(8)),
        labels=("mlp|aten.mm|(B, S, h)", ""),
        templates=(
            (Alloc(0, "activations", 0), Alloc(1, "gradients", 1), macro, Free(Ref("forward.layer", -1, 3))),
            (Accumulate(Ref("forward.layer", 0, 1)), Free(Ref("forward.embed", None, 0))),
        ),
        blocks=(
            Block("forward.embed", (("", 1),)),
            Block("forward.layer", (("^ a b", 0), ("a b $", 1)), Anchor(False, 0), Anchor(True, 0), 1),
        ),
        buffers=((2, "rotary_emb"),),
    )


def test_a_program_is_read_as_it_was_written() -> None:
    program = every_kind_of_entry()
    assert load_program(dump_program(program)) == program
    assert load_program(dump_program(program)).key.digest() == program.key.digest()


def test_a_program_is_one_line() -> None:
    assert "\n" not in dump_program(every_kind_of_entry())


def test_the_format_is_read_first() -> None:
    other = json.dumps({"format": 99, "layout": "of another day"})
    with pytest.raises(ValueError, match="format 99, expected 1"):
        load_program(other)


def damaged(**changes: Any) -> str:
    return json.dumps({**json.loads(dump_program(every_kind_of_entry())), **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '"text"',
        dump_program(every_kind_of_entry())[:-40],
        damaged(sizes=[[1]]),
        damaged(templates=[[[0, 0, 999, 0]]]),
        damaged(templates=[[[7, 0, 0, 0]]]),
        damaged(templates=[[None]]),
        damaged(blocks=[["no segment", [], None, None, 1]]),
        damaged(key={"structure": {}}),
        json.dumps({"format": 1}),
    ],
)
def test_what_is_no_program_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - one message per way to be wrong
        load_program(text)


def test_every_program_that_ships_is_one_the_grid_asks_for() -> None:
    from vramplan.planner.trace.build_set import grid_keys

    stale = programs.shipped_digests() - {key.digest() for _, key in grid_keys()}
    assert not stale


def test_a_program_that_ships_is_of_the_key_it_is_filed_under() -> None:
    for digest in sorted(programs.shipped_digests())[::10]:
        program = programs._shipped(digest)
        assert program is not None
        assert program.key.digest() == digest
        assert load_program(dump_program(program)) == program
