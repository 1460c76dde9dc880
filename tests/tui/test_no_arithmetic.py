"""The app computes no number: amounts are drawn, formatted, compared, never added; what is shown is the core's."""

import ast
import re
from pathlib import Path

from tests.fakes import make_budget, make_line
from tests.tui.driving import driving
from tests.tui.fake_core import FakeCore
from vramplan.planner.memory.budget import MemoryBudget
from vramplan.planner.throughput.values import Range, RunCost
from vramplan.planner.units import GIB
from vramplan.tui.choice import Choice, Compared, Priced

APP = Path(__file__).parents[2] / "tui"
ALLOWED = {"layout.py"}
"""Turns amounts into lengths of bars; nothing of it is printed."""
AMOUNT = re.compile(
    r"_(bytes|params|tokens|seconds|hours|usd|watts|share|fraction)$|^(tokens|hours|usd|loss|losses|budget)$"
)
ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)


def identifiers(node: ast.AST) -> set[str]:
    """Every name and attribute an expression's value may come from; those inside a call are the call's business."""
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.Attribute):
        return {node.attr} | identifiers(node.value)
    if isinstance(node, ast.Call | ast.Constant | ast.JoinedStr):
        return set()
    return {name for child in ast.iter_child_nodes(node) for name in identifiers(child)}


def arithmetic_on_amounts(source: str) -> list[int]:
    """The lines that compute with something named like an amount, or add up anything."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        operands: list[ast.AST] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ARITHMETIC):
            operands = [node.left, node.right]
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ARITHMETIC):
            operands = [node.target, node.value]
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("sum", "divmod", "pow")
        ):
            operands = list(node.args)
        if any(AMOUNT.search(name) for operand in operands for name in identifiers(operand)):
            lines.append(node.lineno)
    return lines


def test_the_rule_finds_what_it_forbids() -> None:
    assert arithmetic_on_amounts("free = device.total_bytes - used") == [1]
    assert arithmetic_on_amounts("sum(line.estimate_bytes for line in lines)") == [1]
    assert arithmetic_on_amounts("width = room - len(label)\ntext = f'{budget.process_bytes}'") == []


def test_nothing_of_the_app_computes_with_an_amount() -> None:
    found = {
        str(path.relative_to(APP)): lines
        for path in sorted(APP.rglob("*.py"))
        if path.name not in ALLOWED and (lines := arithmetic_on_amounts(path.read_text(encoding="utf-8")))
    }
    assert found == {}


class PlantedCore(FakeCore):
    """Prices whose every figure is one nobody would arrive at by accident, and whose lines do not add up to it."""

    def _planted(self) -> MemoryBudget:
        budget = make_budget(process_bytes=round(13.37 * GIB), high_process_bytes=round(17.71 * GIB))
        line = make_line("weights", round(3.33 * GIB)).model_copy(update={"bytes_per_param": 7.89})
        phases = tuple(phase.model_copy(update={"lines": (line,)}) for phase in budget.phases)
        return budget.model_copy(update={"phases": phases})

    def price(self, choice: Choice) -> Priced:
        priced = super().price(choice)
        changed = {"budget": self._planted(), "headroom_bytes": round(-4.56 * GIB), "trainable_params": 765_400_000}
        return priced.model_copy(update={"candidate": priced.candidate.model_copy(update=changed)})

    def compare(self, choice: Choice) -> tuple[Compared, ...]:
        cost = RunCost(
            hours=Range(low=1, typical=98.7, high=999), usd=Range(low=1, typical=654.0, high=999), usd_per_hour=1.0
        )
        candidate = self.price(choice).candidate
        return (Compared(candidate=candidate, notes=("planted",), cost=cost, options={"method": "lora"}),)


async def test_what_is_shown_is_what_the_core_said_though_it_does_not_add_up() -> None:
    async with driving(PlantedCore(), (200, 60)) as driver:
        await driver.wait("fake/llama-8b")
        text = await driver.press("j", "enter", until="headroom -4.56")
        assert "peak 13.37  up to 17.71" in text
        assert "3.33 GiB 7.89 B/param" in text
        text = await driver.press("5", until="planted")
        row = next(line for line in text.splitlines() if line.startswith(" lora"))
        assert [figure in row for figure in ("13.37", "17.71", "-4.56", "98.7", "654", "765.4 M")] == [True] * 6
        text = await driver.press("6", until="not saved yet")
        assert "765.4 M" in text
