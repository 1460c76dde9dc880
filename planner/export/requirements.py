"""Which distributions an exported run needs, at the versions the plan was priced for."""

import re

from vramplan.planner.errors import UnsupportedError
from vramplan.planner.export.trainer import quantised
from vramplan.planner.methods import trains_base
from vramplan.planner.plan import Plan

_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*((a|b|rc|\.post|\.dev)[0-9]+)*")
_OURS = {
    "torch": ">=2.8,<2.14",
    "transformers": ">=5.13",
    "trl": ">=1.16,<1.17",
    "peft": ">=0.19",
    "accelerate": ">=1.10",
    "datasets": ">=4",
    "bitsandbytes": ">=0.48",
}
"""What the executor itself asks for (pyproject.toml): where the plan names no version."""

_OF_FSDP2 = {"accelerate": ">=1.15", "transformers": ">=5.23"}
"""Whose ways of wrapping and loading a model the price follows."""


def requirements(plan: Plan) -> str:
    """``requirements.txt``: a library a line.

    Raises:
        UnsupportedError: the plan holds something that is no version.
    """
    setup = plan.setup
    names = ["torch", "transformers", "trl", "accelerate", "datasets"]
    names += [] if trains_base(setup.method) else ["peft"]
    names += ["bitsandbytes"] if quantised(plan) or "8bit" in setup.optimizer else []
    floors = _OURS | (_OF_FSDP2 if setup.sharding == "fsdp" else {})
    lines = [_line(name, plan.packages.get(name), floors[name]) for name in names]
    lines += ["psutil"] + (["flash-attn"] if setup.attention == "flash_attention_2" else [])
    return "\n".join(lines) + "\n"


def _line(name: str, version: str | None, otherwise: str) -> str:
    if version is None:
        return f"{name}{otherwise}"
    public = version.partition("+")[0]  # a local build, such as +cpu, is on no index
    if not _VERSION.fullmatch(public):
        raise UnsupportedError(f"the plan names version {version[:40]!r} of {name}", remedy="plan again")
    return f"{name}=={public}"
