"""How far measured runs were from their price, for ``planner/fit_chance.py``: ``python -m benchmarks.fit_errors``.

From ``results/published.json``: measured over predicted of the metric that was measured; of runs that empty their cache
between steps, over the price of such a step. Writes ``planner/measured_errors.py``.
"""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "published.json"
MODULE = Path(__file__).parents[1] / "planner" / "measured_errors.py"


def module_text(rows: list[dict[str, Any]]) -> str:
    """The module's source."""
    ratios = sorted(round(_ratio(row), 3) for row in rows)
    names = ", ".join(sorted({row["repository"] for row in rows}))
    lines = [ratios[first : first + 12] for first in range(0, len(ratios), 12)]
    body = "".join(f"    {', '.join(map(str, line))},\n" for line in lines)
    return (
        '"""Written by ``python -m benchmarks.fit_errors``."""\n\n'
        f"RATIOS = (\n{body})  # fmt: skip\n"
        '"""Measured bytes over predicted bytes, a figure a run."""\n'
        f'SOURCE = "{len(ratios)} published runs ({names})"\n'
    )


def _ratio(row: dict[str, Any]) -> float:
    emptied = row.get("emptied")
    predicted = emptied["predicted_bytes"] if emptied else row["predicted_bytes"][row["metric"]]
    return float(row["measured_bytes"] / predicted)


if __name__ == "__main__":
    MODULE.write_text(module_text(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")
