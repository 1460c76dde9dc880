"""A folder's files stay in it: a link that leads out of the folder it was found in is refused.

The Hub's cache is such a folder, too: a snapshot's files are links to ``blobs`` beside ``snapshots``
(huggingface_hub, guides/manage-cache), and nowhere else.
"""

from pathlib import Path


def leads_outside(folder: Path, file: Path) -> bool:
    """Whether a file under a folder lies, all links followed, outside it."""
    try:
        root, place = folder.resolve(), file.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return True
    caches = [each.parent.parent / "blobs" for each in (root, *root.parents) if each.parent.name == "snapshots"]
    return not any(place.is_relative_to(allowed) for allowed in (root, *caches))


def outside_words(file: Path) -> str:
    """What is wrong with such a file, after its name."""
    return f"is a link to {str(file.resolve())[-120:]!r}, outside the folder"
