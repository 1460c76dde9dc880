"""Equal layers put down as one was watched: the allocator ends as if every one had been gone through."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vramplan.planner.adapters.programs import known_program
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.main import build_parser
from vramplan.planner.cli.options import given_options
from vramplan.planner.memory import passes
from vramplan.planner.memory.allocator import CachingAllocator, parse_alloc_conf
from vramplan.planner.memory.blocks import Block
from vramplan.planner.memory.expand import Expanded, Pass, Storage, expand
from vramplan.planner.memory.price import Pricing, Question

CONFS = ("", "expandable_segments:True", "roundup_power2_divisions:4", "max_split_size_mb:64")
SIZES = st.sampled_from([512, 1536, 300 * 1024, 2**20, 3 * 2**19, 5 * 2**20, 16 * 2**20, 33 * 2**20])


def went_through(allocator: CachingAllocator, step: Expanded) -> dict[int, Block | None]:
    alive: dict[int, Block | None] = {}
    for change in step.changes:
        if change >= 0:
            alive[change] = allocator.take(step.storages[change].size_bytes)
        else:
            allocator.give(alive.pop(~change))
    return alive


def found(allocator: CachingAllocator, alive: dict[int, Block | None]) -> Any:
    """Everything of an allocator that a later request can meet."""
    free = [(block.address, block.size_bytes) for pool in allocator.pools for block in pool.blocks]
    held = {index: block and (block.address, block.size_bytes) for index, block in alive.items()}
    return allocator.reserved_bytes, allocator.allocated_bytes, free, held


def assert_same(conf: str, before: list[int], steps: list[Expanded]) -> None:
    ours, theirs = (CachingAllocator(parse_alloc_conf(conf)) for _ in range(2))
    for allocator in (ours, theirs):
        for block in [allocator.take(size) for size in before][::2]:
            allocator.give(block)
    for step in steps:
        alive, expected = passes.play(ours, step), went_through(theirs, step)
        assert found(ours, alive) == found(theirs, expected)
        for allocator, left in ((ours, alive), (theirs, expected)):
            for index in sorted(left):
                allocator.give(left[index])
    assert found(ours, {}) == found(theirs, {})


class Model:
    """Layers that keep something for their backward, which runs some of their forward again and hands a gradient on."""

    def __init__(self, depth: int, kept: list[int], passing: list[int], handed: int, cycle: int) -> None:
        self.step = Expanded([], [], [])
        held = [self.layer("forward", layer % cycle, kept, passing) for layer in range(depth)]
        self.begin("head", 0)
        gradient = self.born(handed)
        for layer in reversed(range(depth)):
            self.begin("backward", layer % cycle)
            self.come_and_go(passing[layer % cycle :])
            after = self.born(handed)
            for index in (gradient, *held[layer]):
                self.step.changes.append(~index)
            gradient = after

    def begin(self, segment: str, kind: int) -> None:
        self.step.passes.append(Pass(len(self.step.changes), len(self.step.storages), (segment, kind)))

    def layer(self, segment: str, kind: int, kept: list[int], passing: list[int]) -> list[int]:
        self.begin(segment, kind)
        self.come_and_go(passing[: 1 + kind])
        held = [self.born(size) for size in kept]
        self.come_and_go(passing[1 + kind :])
        return held

    def come_and_go(self, sizes: list[int]) -> None:
        here: list[int] = []
        for size in sizes:  # two at a time, as operations do
            here.append(self.born(size))
            if len(here) > 1:
                self.step.changes.append(~here.pop(0))
        self.step.changes.extend(~index for index in here)

    def born(self, size: int) -> int:
        self.step.changes.append(len(self.step.storages))
        self.step.storages.append(Storage(size, "activations", "", ""))
        return len(self.step.storages) - 1


MODELS = st.builds(
    Model,
    depth=st.integers(1, 24),
    kept=st.lists(SIZES, max_size=3),
    passing=st.lists(SIZES, min_size=1, max_size=8),
    handed=SIZES,
    cycle=st.integers(1, 3),
)


@settings(max_examples=100)
@given(conf=st.sampled_from(CONFS), before=st.lists(SIZES, max_size=8), model=MODELS)
def test_a_step_ends_as_if_every_layer_had_been_gone_through(conf: str, before: list[int], model: Model) -> None:
    assert_same(conf, before, [model.step, model.step])


@cache
def shipped(*command: str) -> Expanded:
    args = build_parser("estimate").parse_all(["estimate", *command])
    subject = subjects.look_up(args)
    resolved = subjects.complete(subject, given_options(args))
    program = known_program(subjects.key_of(subject, resolved)).program
    question = Question(subject.model, resolved.workload, resolved.setup, "cuda", subject.device)
    return expand(Pricing(question, program).replay)


LLAMA = ("meta-llama/Llama-3.1-8B", "--device", "RTX 4090", "--sequence-length", "2048", "--method")


@pytest.mark.parametrize("conf", CONFS)
@pytest.mark.parametrize(
    "command",
    [
        (*LLAMA, "qlora"),
        (*LLAMA, "lora", "--no-gradient-checkpointing"),
        (*LLAMA, "full", "--gradient-accumulation-steps", "1"),
        ("google/gemma-2-9b", "--device", "RTX 4090", "--sequence-length", "512", "--method", "lora"),
    ],
    ids=lambda command: " ".join(command[:1] + command[5:]),
)
def test_steps_of_real_models_end_the_same(command: tuple[str, ...], conf: str) -> None:
    step = shipped(*command)
    assert_same(conf, [5 * 2**20, 300 * 2**20, 2**19], [step, step])


def test_most_layers_of_a_checkpointed_model_are_not_gone_through(monkeypatch: pytest.MonkeyPatch) -> None:
    step = shipped(*LLAMA, "qlora")
    allocator = CachingAllocator(parse_alloc_conf("expandable_segments:True"))
    for block in passes.play(allocator, step).values():
        allocator.give(block)
    taken: list[int] = []
    take = allocator.take
    monkeypatch.setattr(allocator, "take", lambda size: (taken.append(size), take(size))[1])
    passes.play(allocator, step)
    assert len(taken) < len(step.storages) / 3
