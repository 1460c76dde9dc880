"""The profiles parsed ahead: TOML is for people, and takes ten times as long to read as JSON.

    python -m vramplan.hardware_profiles.index

writes the index after a change to a TOML file; a file that was changed since is parsed instead, so nothing is stale.
"""

import json
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from vramplan.hardware_profiles.loader import INDEX_FILE, SOURCES_FILE, parsed


def index() -> dict[str, Any]:
    """File name -> [crc32 of its bytes, its tables]. The sources are left out: JSON has no dates."""
    names = sorted(file.name for file in files(__package__).iterdir() if file.name.endswith(".toml"))
    contents = {name: files(__package__).joinpath(name).read_bytes() for name in names if name != SOURCES_FILE}
    return {name: [zlib.crc32(content), parsed(content)] for name, content in contents.items()}


if __name__ == "__main__":
    (Path(__file__).parent / INDEX_FILE).write_text(json.dumps(index(), separators=(",", ":")) + "\n")
