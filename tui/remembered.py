"""What the app remembers from one time to the next, in the platform's configuration folder."""

from pathlib import Path

import platformdirs
from pydantic import ValidationError

from vramplan.planner.values import Value
from vramplan.tui.choice import Knobs

RECENT_KEPT = 10


class Recent(Value):
    """A model that was looked at, as a person named it, and how its options stood."""

    model: str
    knobs: Knobs = Knobs()


class Remembered(Value):
    """The last choices, and which hints were shown."""

    device: str | None = None
    """What names the device on the command line; None: what is here."""
    theme: str | None = None
    recent: tuple[Recent, ...] = ()
    """The latest first."""
    hinted: tuple[str, ...] = ()
    """Screens whose first-run hint was shown."""

    def having(self, recent: Recent) -> "Remembered":
        """With a model looked at just now."""
        others = tuple(each for each in self.recent if each.model != recent.model)
        return self.model_copy(update={"recent": (recent, *others)[:RECENT_KEPT]})


def read_remembered() -> Remembered:
    """What was kept; nothing where there is no file, or none that can be read."""
    try:
        return Remembered.model_validate_json(_path().read_text(encoding="utf-8"))
    except (OSError, ValueError, ValidationError):
        return Remembered()


def write_remembered(remembered: Remembered) -> None:
    """Keep it; a folder that cannot be written costs the memory alone."""
    path = _path()
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(remembered.model_dump_json(indent=1, exclude_defaults=True) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError:
        return


def _path() -> Path:
    return Path(platformdirs.user_config_dir("vramplan")) / "app.json"
