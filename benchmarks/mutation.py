"""What the tests of the memory model would notice: a sample of small faults put into it, one at a time, by cosmic-ray.

    make mutation                                          a hundred faults, half an hour on an idle machine
    python -m benchmarks.mutation --session FILE           goes on where a session stopped
    python -m benchmarks.mutation --session FILE --again   tries what survived again, after new tests

A fault is an operator, a number, a condition or a loop changed at one place of ``planner/memory``. Of each place one
fault is drawn, of all of them a sample, both by a seed, so that a run can be repeated. Faults in annotations are left
out: importing the module finds them. The faults are put into a copy of the tree, in which all tests pass to begin with.
Writes ``results/mutation.json``.
"""

import argparse
import json
import os
import random
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "mutation.json"
MODULES = (
    "allocator", "replay", "expand", "reserved", "static", "optimizer", "forms", "step_forms", "peaks", "fused_loss",
    "phases", "price", "outside", "eight_bit", "static_methods", "units", "fsdp_step", "stack", "structure",
    "alloc_conf",
)  # fmt: skip
TESTS = (
    "allocator", "replay", "fused_loss", "optimizer_memory", "static_memory", "method_memory", "shipped_answers",
    "phases", "structure", "estimate", "alloc_conf", "memory_model_document", "seed_examples", "layerwise", "explain",
    "timeline", "passes", "units", "last_blocks_memory", "peaks", "allocator_properties", "reserved", "sharding",
)  # fmt: skip
"""Tests of the memory model that need no PyTorch, the quick ones first: the first that fails ends a trial."""
QUICK = "not 70b and not 405b"
"""Without tests of seconds that ask what others ask at smaller sizes."""
ANNOTATIONS = "%BitOr_%"
"""cosmic-ray's operators on ``|``, which stands in annotations here."""
TIMEOUT_SECONDS = 1200


def main() -> None:
    """Make or go on with a session, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=100, help="how many faults")
    parser.add_argument("--seed", type=int, default=7, help="of the sample")
    parser.add_argument("--session", type=Path, help="a session's file, kept; a new one is thrown away without")
    parser.add_argument("--again", action="store_true", help="try what survived again: the code is what it was then")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        session = (args.session or Path(scratch) / "session.sqlite").resolve()
        tree, config = Path(scratch) / "tree", Path(scratch) / "cosmic-ray.toml"
        _copy(tree)
        config.write_text(_config(), encoding="utf-8")
        environment = os.environ | {"PYTHONPATH": str(tree / ".typing"), "OMP_NUM_THREADS": "1"}
        if not session.exists():
            _cosmic_ray(["init", str(config), str(session)], tree, environment)
            print(f"{_draw(session, args.sample, args.seed)} places, {args.sample} drawn", file=sys.stderr)
        before = {}
        if args.again:
            before = {"killed_before": outcome(session)["killed"]}
            _forget_survivors(session)
        _cosmic_ray(["baseline", str(config)], tree, environment)
        _cosmic_ray(["exec", str(config), str(session)], tree, environment)
        found = outcome(session) | before | {"seed": args.seed, "commit": _commit()}
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"{found['killed']} of {found['faults']} noticed")


def outcome(session: Path) -> dict[str, Any]:
    """How many faults of a session were noticed, and where those stand that were not."""
    query = (
        "select module_path, definition_name, start_pos_row, operator_name, test_outcome from mutation_specs "
        "join work_results using (job_id) order by 1, 3"
    )
    with sqlite3.connect(session) as opened:
        rows = opened.execute(query).fetchall()
    survived = [
        {"module": module, "in": where, "line": line, "fault": operator.removeprefix("core/")}
        for module, where, line, operator, outcome in rows
        if "SURVIVED" in str(outcome).upper()
    ]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "faults": len(rows),
        "killed": len(rows) - len(survived),
        "survived": survived,
    }


def _commit() -> str:
    head = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(head, cwd=REPOSITORY, capture_output=True, check=True, text=True).stdout.strip()


def _copy(tree: Path) -> None:
    """What git would commit, and the links under which the copy is ``vramplan``."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY, capture_output=True, check=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, tree / name)
    links = tree / ".typing" / "vramplan"
    links.mkdir(parents=True)
    for folder in ("executor", "hardware_profiles", "planner", "tui"):
        (links / folder).symlink_to(tree / folder)


def _config() -> str:
    tests = " ".join(f"tests/unit/test_{name}.py" for name in TESTS)
    options = f"-q -x -p no:cacheprovider --hypothesis-profile trial -m 'not train and not gpu' -k '{QUICK}'"
    command = f"{shlex.quote(sys.executable)} -m pytest {options} {tests}"
    modules = [f"planner/memory/{name}.py" for name in MODULES]
    return (
        f"[cosmic-ray]\nmodule-path = {json.dumps(modules)}\ntimeout = {TIMEOUT_SECONDS}\nexcluded-modules = []\n"
        f'test-command = {json.dumps(command)}\n\n[cosmic-ray.distributor]\nname = "local"\n'
    )


def _cosmic_ray(arguments: list[str], tree: Path, environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, "-m", "cosmic_ray.cli", *arguments], cwd=tree, env=environment, check=True)


def _draw(session: Path, sample: int, seed: int) -> int:
    """Leave one fault at each of ``sample`` places in the session; how many places there were."""
    chance = random.Random(seed)
    with sqlite3.connect(session) as opened:
        place = "module_path, start_pos_row, start_pos_col"
        query = f"select {place}, job_id from mutation_specs where operator_name not like ?"
        places: dict[tuple[Any, ...], list[str]] = {}
        for *where, job in sorted(opened.execute(query, (ANNOTATIONS,))):
            places.setdefault(tuple(where), []).append(job)
        drawn = [chance.choice(jobs) for jobs in places.values()]
        chance.shuffle(drawn)
        _keep(opened, drawn[:sample])
    return len(places)


def _keep(session: sqlite3.Connection, jobs: Iterable[str]) -> None:
    kept = set(jobs)
    for table in ("work_items", "mutation_specs"):
        others = [(job,) for (job,) in session.execute(f"select job_id from {table}") if job not in kept]
        session.executemany(f"delete from {table} where job_id = ?", others)


def _forget_survivors(session: Path) -> None:
    with sqlite3.connect(session) as opened:
        opened.execute("delete from work_results where upper(test_outcome) like '%SURVIVED%'")


if __name__ == "__main__":
    main()
