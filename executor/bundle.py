"""A bug report of one run as a zip: what was planned, said and measured, and nothing that is anyone's secret.

Training data, weights and the environment stay out. Every text is cleaned of tokens (executor/secrets.py).
"""

import json
import os
import platform
import zipfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from vramplan.executor.evidence import REPORT, VERIFICATION
from vramplan.executor.failure import SNAPSHOT
from vramplan.executor.launcher import EVENTS, LOG
from vramplan.executor.packages import installed_packages
from vramplan.executor.secrets import Redactor
from vramplan.planner.adapters.devices import read_devices
from vramplan.planner.errors import UsageError

FILES = ("plan.json", EVENTS, REPORT, VERIFICATION, LOG, SNAPSHOT)
MOST_BYTES = 4 * 1024**2
"""Of each file; of a longer one its end, where what went wrong is told."""


def write_bundle(run_folder: Path, out: Path, redactor: Redactor | None = None) -> tuple[tuple[str, ...], int]:
    """Write the bundle; the names in it, and how many secrets were removed.

    Raises:
        UsageError: it exists already, or cannot be written.
    """
    redactor = redactor or redactor_here()
    texts = {name: _text(run_folder / name) for name in FILES if (run_folder / name).is_file()}
    texts["about.json"] = json.dumps(_about(run_folder), indent=2) + "\n"
    try:
        with zipfile.ZipFile(out, "x", zipfile.ZIP_DEFLATED) as archive:
            for name, text in sorted(texts.items()):
                archive.writestr(name, redactor.clean(text))
    except FileExistsError as error:
        raise UsageError(f"{out} exists already", remedy="name another file") from error
    except OSError as error:
        with suppress(OSError):
            out.unlink()  # half of one is none
        raise UsageError(f"cannot write {out}: {error.strerror}", remedy="name another file") from error
    return tuple(sorted(texts)), redactor.removed


def redactor_here() -> Redactor:
    """What is secret on this machine: the environment's secrets and the token that the Hub's client has stored."""
    from huggingface_hub import get_token

    token = get_token()
    return Redactor(os.environ, (token,) if token else (), str(Path.home()))


def _about(run_folder: Path) -> dict[str, object]:
    return {
        "vramplan": version("vramplan"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": installed_packages(),
        "devices": [device.model_dump(mode="json", exclude={"holders", "uuid"}) for device in read_devices()],
        "files": sorted(path.name for path in run_folder.iterdir()),
    }


def _text(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - MOST_BYTES))
        return file.read().decode("utf-8", "replace")
