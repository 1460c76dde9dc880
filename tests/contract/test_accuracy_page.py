"""The pages about how good the numbers are: made of results, and of nothing else."""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
README = BENCHMARKS / "README.md"
FIGURE = re.compile(r"\d[\d.,]* ?(?:%|GiB|GB|MiB|MB|kB|ms\b|seconds\b)")
BLOCK = re.compile(r"<!-- (\w+) -->\n(.*?)<!-- /\1 -->", re.S)


@pytest.fixture(scope="module", autouse=True)
def beside_the_scripts() -> Iterator[None]:
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def result(name: str) -> Any:
    return json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


def written(name: str) -> str:
    """What the script of a block would write into it."""
    if name == "accuracy":
        return str(script("accuracy").tables())
    if name == "proof":
        return str(script("proof").block())
    if name == "published":
        published = script("published")
        left_out = published.load_cases(published.NOT_REPRODUCED)
        return str(script("published_tables").markdown(published.load_cases(), result(name), left_out))
    if name == "reality":
        tiny = json.loads((BENCHMARKS / "cases" / "tiny_models.json").read_text())
        return str(
            script("reality").markdown(result(name), [kind for kind in tiny if f"{kind} / full" in result(name)])
        )
    module = {"throughput": "throughput_tables"}.get(name, name)
    return str(script(module).markdown(result(name)))


@pytest.mark.parametrize(
    "name", ["accuracy", "published", "activations", "throughput", "speed", "app", "reality", "proof"]
)
def test_every_block_is_what_its_script_makes_of_the_results(name: str) -> None:
    blocks = dict(BLOCK.findall(README.read_text()))
    assert blocks[name].strip() == written(name).strip(), "after new results: python benchmarks/accuracy.py"


def test_no_result_is_typed_by_hand() -> None:
    page = README.read_text()
    by_hand = BLOCK.sub("", page)
    assert len(by_hand) < len(page) / 2
    assert FIGURE.findall(by_hand) == []


def test_every_row_is_on_the_page_of_rows() -> None:
    page = script("accuracy_tables").rows_page(script("accuracy").measurements())
    assert (BENCHMARKS / "rows.md").read_text() == page, "after new results: python benchmarks/accuracy.py"


def test_the_constants_of_memory_were_set_from_no_row_and_those_of_time_from_half() -> None:
    rows = script("accuracy").measurements()
    assert all(row.sets.startswith("none") for row in rows if row.metric != "step time")
    speeds = [row for row in rows if row.metric == "step time"]
    fitted = sum(not row.sets.startswith("none") for row in speeds)
    assert f"fitted on {fitted} published runs" in written("accuracy")
    assert 0 < fitted < len(speeds)


def test_the_page_of_peers_is_made_of_its_results() -> None:
    assert (BENCHMARKS / "peers.md").read_text() == script("peers_tables").page(result("peers"))
