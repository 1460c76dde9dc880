"""The memory and the processor of this machine, as a process here may use them."""

import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class HostMemory(NamedTuple):
    total_bytes: int
    available_bytes: int
    """What can be had without swapping."""
    limited: bool
    """A control group (a container, a job of a scheduler) allows less than the machine has."""


class _Limit(NamedTuple):
    limit_bytes: int
    used_bytes: int


def read_host_memory(root: Path = Path("/")) -> HostMemory:
    """RAM through psutil, or the smallest control group limit above this process when that is less.

    A group's page cache that can be dropped (inactive_file) counts as available, as container runtimes count it.
    """
    import psutil

    memory = psutil.virtual_memory()
    total, available, limited = int(memory.total), int(memory.available), False
    for group in _limits(root):
        if group.limit_bytes < total:
            total, limited = group.limit_bytes, True
        available = min(available, max(0, group.limit_bytes - group.used_bytes))
    return HostMemory(total, available, limited)


def processor_name(root: Path = Path("/")) -> str:
    """The processor as its maker calls it, else its architecture."""
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    if named and named[0]:
        return named[0]
    return _apple_name() or platform.processor() or platform.machine() or "CPU"


def _apple_name() -> str | None:
    if sys.platform != "darwin":
        return None
    import subprocess

    try:
        asked = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip() or None


def _limits(root: Path) -> Iterator[_Limit]:
    """The limit of every control group from this process's own up to the top, versions 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # Inside a container the path may be the host's; then only the top is there to read.
        folder = top / path.strip("/")
        for group in (folder, *folder.parents):
            if group != top and top not in group.parents:
                break
            if limit := _limit(group, *names):
                yield limit


def _limit(group: Path, limit_name: str, used_name: str, cache_name: str) -> _Limit | None:
    try:
        limit_text = (group / limit_name).read_text(encoding="ascii").strip()
        used = int((group / used_name).read_text(encoding="ascii"))
        fields = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    if not limit_text.isdigit():
        return None
    return _Limit(int(limit_text), max(0, used - int(fields.get(cache_name, "0"))))
