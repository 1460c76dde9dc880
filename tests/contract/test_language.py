"""The repository speaks of itself alone: no machine's paths, no registry's hosts, no secrets, nothing left for later.

The patterns are put together from parts so that this file does not match itself.
"""

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

FORBIDDEN = {
    "a path of one machine": r"(?<![\w.-])/(?:work|tmp|root|home/\w+|opt/(?:wheels|pypi))/",
    "a package registry's host": r"\b(?:"
    + "|".join(("py" + r"pi\.org", "pythonhost" + "ed", r"registry\.npm" + "js", r"deb\.deb" + "ian"))
    + ")",
    "something left for later": r"\b(?:TO" + "DO|FIX" + "ME|XX" + r"X)\b",
    "a Hugging Face token": r"\bhf_[A-Za-z]{30,}",
    "a private key": "-----BEGIN [A-Z ]*PRIVATE" + " KEY",
}


def tracked_files() -> list[Path]:
    """Every file under version control; new ones count before they are committed."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, check=False,
    )  # fmt: skip
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return [path for name in listing.stdout.decode().split("\0") if name and (path := REPOSITORY / name).is_file()]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:120]}"
            for number, line in enumerate(text.splitlines(), start=1)
            if pattern.search(line)
        ]
    assert not found, f"{what}:\n" + "\n".join(found)
