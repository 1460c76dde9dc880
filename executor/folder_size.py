"""The size of what was written."""

import os


def folder_bytes(folder: str, *, but: str | None = None) -> int:
    """Bytes of every file under a folder; sub-folders whose name starts with ``but`` are left out."""
    total = 0
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if but is None or not name.startswith(but)]
        total += sum(os.lstat(os.path.join(root, name)).st_size for name in files)
    return total
