"""The profiles parsed ahead: TOML is for people, and takes ten times as long to read as JSON.

    python -m vramplan.hardware_profiles.index

writes the index after a change to a TOML file; a file that was changed since is parsed instead, so nothing is stale.
"""

import json
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from vramplan.hardware_profiles.loader import INDEX_FILE, parsed


def index() -> dict[str, Any]:
    """File name -> [crc32 of its bytes, its tables], dates as text."""
    names = sorted(file.name for file in files(__package__).iterdir() if file.name.endswith(".toml"))
    contents = {name: files(__package__).joinpath(name).read_bytes() for name in names}
    found = {name: [zlib.crc32(content), parsed(content)] for name, content in contents.items()}
    as_json: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return as_json


if __name__ == "__main__":
    (Path(__file__).parent / INDEX_FILE).write_text(json.dumps(index(), separators=(",", ":")) + "\n")
