"""Optimizer states, and what a step holds beside them, worked by hand on two or three small parameters."""

import pytest

from vramplan.planner.errors import UnsupportedError
from vramplan.planner.memory.groups import Group, total_bytes
from vramplan.planner.memory.optimizer import managed_groups, parameter_groups, state_groups, step_peak_bytes
from vramplan.planner.memory.optimizer import step_temporaries as temporaries
from vramplan.planner.training_setup import Optimizer

MATRIX = Group(15, 4, 1, shape=(3, 5))
VECTOR = Group(7, 4, 1, decays=False, shape=(7,))


def exact(groups: list[Group]) -> int:
    return total_bytes(groups, 1)


@pytest.mark.parametrize(
    ("optimizer", "route", "state_bytes"),
    [
        # m and v of 22 elements; fused on CUDA, and any on the CPU, a 4-byte step counter for each of two parameters
        ("adamw_torch", "cuda", 2 * 22 * 4),
        ("adamw_torch", "cpu", 2 * 22 * 4 + 2 * 4),
        ("adamw_torch_fused", "cuda", 2 * 22 * 4 + 2 * 4),
        ("sgd", "cuda", 0),
        # a row and a column sum of the matrix, the vector's own, and a root mean square each
        ("adafactor", "cuda", (3 + 5 + 1 + 7 + 1) * 4),
    ],
)
def test_what_two_small_parameters_keep(optimizer: Optimizer, route: str, state_bytes: int) -> None:
    assert exact(state_groups(optimizer, [MATRIX, VECTOR], "cuda" if route == "cuda" else "cpu")) == state_bytes
    assert managed_groups(optimizer, [MATRIX, VECTOR], "cuda") == []


def test_8_bit_states_are_a_byte_and_an_fp32_for_each_256_and_small_tensors_stay_wide() -> None:
    small, large = Group(4095, 2, 1), Group(10_000, 2, 3)
    # 10,000 / 256 is 40 blocks; two code books of 256 fp32 for all
    eight = 2 * 3 * (10_000 + 40 * 4) + 2 * 1024
    assert exact(state_groups("adamw_8bit", [large], "cuda")) == eight
    assert exact(state_groups("adamw_8bit", [small, large], "cuda")) == eight + 2 * 4095 * 4
    assert exact(state_groups("adamw_8bit", [small], "cuda")) == 2 * 4095 * 4
    assert exact(state_groups("lion_8bit", [large], "cuda")) == eight // 2


def test_an_embedding_has_fp32_states_under_trainer_and_none_of_its_own_in_a_loop_by_hand() -> None:
    table = Group(10_000, 2, 1, embedding=True)
    assert exact(state_groups("adamw_8bit", [table], "cuda")) == 2 * 10_000 * 4
    assert exact(state_groups("adamw_8bit", [table], "cuda", loop="plain")) == 2 * (10_000 + 40 * 4) + 2 * 1024


def test_from_100000_elements_on_states_are_paged_on_cuda_and_what_belongs_to_them_is_not() -> None:
    under, paged = Group(99_999, 2, 1), Group(100_000, 2, 1)
    blocks = 2 * 391 * 4 + 2 * 1024  # 100,000 / 256, rounded up
    assert exact(managed_groups("paged_adamw_8bit", [under, paged], "cuda")) == 2 * 100_000
    assert exact(state_groups("paged_adamw_8bit", [paged], "cuda")) == blocks
    assert exact(state_groups("paged_adamw_8bit", [paged], "cpu")) == 2 * 100_000 + blocks
    assert managed_groups("paged_adamw_8bit", [under], "cuda") == []


def test_a_method_whose_shapes_are_not_known_is_refused_by_adafactor() -> None:
    with pytest.raises(UnsupportedError, match="adafactor"):
        state_groups("adafactor", [Group(15, 4, 1)], "cuda")


# ------------------------------------------------------------------ the step
def test_clipping_holds_a_norm_of_each_gradient_their_stack_and_two_scalars() -> None:
    # two norms, a stack of two and the total, each 4 bytes an element, or a block of 512
    assert step_peak_bytes("sgd", [MATRIX, VECTOR], "cuda", 1) == 2 * 4 + 2 * 4 + 4
    assert step_peak_bytes("sgd", [MATRIX, VECTOR], "cuda", 512) == 2 * 512 + 512 + 512
    assert step_peak_bytes("adamw_torch_fused", [MATRIX, VECTOR], "cuda", 1) == 20
    half = [Group(15, 2, 300)]
    assert step_peak_bytes("adamw_torch_fused", half, "cuda", 512) == 300 * 512 + 1024 + 512


def test_foreach_holds_the_square_roots_of_one_parameter_group_at_once() -> None:
    # what decays is one group, what does not another: 15 x 4 bytes, then 7 x 4
    assert temporaries("adamw_torch", [MATRIX, VECTOR]) == [MATRIX]
    assert step_peak_bytes("adamw_torch", [MATRIX, VECTOR], "cuda", 1) == 60
    # a loop by hand has one group
    assert exact(temporaries("adamw_torch", [MATRIX, VECTOR], loop="plain")) == 60 + 28
    # and of two dtypes the first list is still bound to its name while the second is made
    both = [MATRIX, Group(30, 2, 1)]
    assert exact(temporaries("adamw_torch", both)) == 60 + 60
    assert temporaries("adamw_torch_fused", both) == []


def test_on_the_cpu_one_parameter_at_a_time_is_stepped_while_the_one_before_is_bound() -> None:
    # the square root and its quotient of 14 elements, beside the 15 of the parameter before
    decaying = [MATRIX, Group(14, 4, 1)]
    assert step_peak_bytes("adamw_torch", decaying, "cpu", 1) == 60 + 2 * 56
    # another parameter group begins with nothing bound
    assert step_peak_bytes("adamw_torch", [MATRIX, VECTOR], "cpu", 1) == 2 * 60


def test_adafactor_holds_its_update_twice_and_rows_and_columns_beside() -> None:
    # fp32: the update of 15 elements is made again beside the old one, with the roots of 3 rows and 5 columns
    assert step_peak_bytes("adafactor", [MATRIX], "cuda", 1) == 60 + 12 + 20 + 60
    # in half precision gradient and weight are copied to fp32 too
    half = Group(15, 2, 1, shape=(3, 5))
    assert step_peak_bytes("adafactor", [half], "cuda", 1) == 2 * 60 + 60 + 12 + 20 + 60
    assert sorted(group.numel for group in temporaries("adafactor", [half])) == [12, 20, 60, 60, 60, 60]


def test_bitsandbytes_on_the_cpu_opens_a_parameter_in_fp32() -> None:
    # 8-bit states of a half-precision parameter: gradient, parameter and four of its size
    assert step_peak_bytes("adamw_8bit", [Group(5000, 2, 1)], "cpu", 1) == 6 * 20_000
    # fp32 states of an fp32 parameter: its gradient and two
    assert step_peak_bytes("adamw_8bit", [Group(4000, 4, 1)], "cpu", 1) == 3 * 16_000


def test_what_has_a_rate_of_its_own_is_a_group_of_its_own() -> None:
    fast = Group(9, 4, 1, rate=1)
    trainer = parameter_groups([MATRIX, VECTOR, fast], "executor")
    assert [part for part in trainer if part] == [[MATRIX], [VECTOR], [fast]]
    assert parameter_groups([MATRIX, VECTOR, fast], "plain") == [[MATRIX, VECTOR], [fast]]
