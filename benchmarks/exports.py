"""Exports before the engines' own parsers: what they take, and that they refuse what is broken on purpose.

    python benchmarks/exports.py axolotl=VENV/bin/python llamafactory=... skypilot=... kubernetes=... pytorchjob=...

Each engine is asked in an environment of its own, where it is installed (``kubernetes`` and ``pytorchjob``:
kubernetes-validate, kubernetes, kubeflow-training). The answers go to ``results/exports.json``. With ``--schemas`` the
keys each engine knows are written to ``tests/fixtures/engines``, cut to what exports use: the tests read those where
the engine is not installed. trl, accelerate, torchrun and the script are run for real by the tests. ``slurm`` asks the
cluster that ``sbatch`` reaches, and any interpreter does.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.unit.export_cases import CONFIGS, broken, valid  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "exports.json"
SCHEMAS = REPOSITORY / "tests" / "fixtures" / "engines"
ASKING = Path(__file__).parent / "engine_parsers.py"


def main() -> int:
    """Ask every engine named; nonzero when one refuses an export or takes a broken one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="+", metavar="ENGINE=PYTHON", help="an engine and the interpreter that has it")
    parser.add_argument("--schemas", action="store_true", help="write the keys it knows for the tests too")
    args = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    wrong = 0
    for named in args.engines:
        engine, _, interpreter = named.partition("=")
        answer = ask(engine, interpreter, schemas=args.schemas)
        if args.schemas and "schema" in answer:
            SCHEMAS.mkdir(parents=True, exist_ok=True)
            schema = {"source": answer["version"]} | answer["schema"]
            (SCHEMAS / f"{engine}.json").write_text(json.dumps(schema, indent=1) + "\n")
        found[engine] = {
            "version": answer["version"],
            "asked_on": datetime.now(UTC).date().isoformat(),
            "taken": sum(error is None for error in answer["valid"].values()),
            "wrongly_refused": {case: error for case, error in answer["valid"].items() if error is not None},
            "refused": {case: error for case, error in answer["broken"].items() if error is not None},
            "wrongly_taken": [case for case, error in answer["broken"].items() if error is None],
        }
        mistakes = len(found[engine]["wrongly_refused"]) + len(found[engine]["wrongly_taken"])
        wrong += mistakes
        counts = f"{found[engine]['taken']} taken, {len(found[engine]['refused'])} broken ones refused"
        print(f"{engine} ({answer['version']}): {counts}, {mistakes} mistakes")
    RESULTS.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    return 1 if wrong else 0


def ask(engine: str, interpreter: str, *, schemas: bool) -> dict[str, Any]:
    """What an engine's own parser says of every case: {"version", "valid": {case: error or None}, "broken": ...}."""
    with tempfile.TemporaryDirectory() as folder:
        for kind, cases in (("valid", valid(engine)), ("broken", broken(engine))):
            for name, files in cases:
                place = Path(folder, kind, name)
                place.mkdir(parents=True)
                for file, text in files.items():
                    (place / file).write_text(text, encoding="utf-8")
        command = [interpreter, str(ASKING), engine, CONFIGS[engine], folder, *(["--schema"] if schemas else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer


if __name__ == "__main__":
    sys.exit(main())
