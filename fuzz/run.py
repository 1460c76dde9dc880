"""Coverage-guided fuzzing of one reader: ``python -m fuzz.run TARGET [libFuzzer's options]``; needs atheris.

Starts from ``fuzz/corpus/TARGET``, and leaves there what reached new code. A finding ends it, and is written to
``crash-*`` by libFuzzer: copy it into the corpus, which a test runs whole.
"""

import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main() -> None:
    """Fuzz until a finding, or until the options say so (``-max_total_time=60``)."""
    import atheris  # not a dependency of ours: pip install atheris

    with atheris.instrument_imports(include=["vramplan.planner", "vramplan.executor", "json", "csv"]):
        from fuzz.targets import run, without_transformers
    without_transformers()
    name = sys.argv[1]
    corpus = FOLDER / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    atheris.Setup(
        [sys.argv[0], *sys.argv[2:], str(corpus), "-timeout=20", "-max_len=4096"], lambda data: run(name, data)
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
