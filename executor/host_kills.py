"""How many processes the kernel has killed for want of memory: read before and after, it tells a kill from a murder."""

from pathlib import Path


def read_kills(root: Path = Path("/")) -> int:
    """The kernel's ``oom_kill`` count since boot (proc/vmstat); 0 where it is not to be read."""
    try:
        lines = (root / "proc/vmstat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
