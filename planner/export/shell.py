"""Shell scripts that run one command of a plan. Whatever comes from the plan is one quoted word, and never code."""

import shlex
from collections.abc import Mapping, Sequence

from vramplan.planner.export.yaml_text import inert
from vramplan.planner.plan import Plan


class Shell(str):
    """A word of ours for a shell to expand, put into a script as it is."""


def shell_script(
    plan: Plan, command: Sequence[str], *, before: Sequence[str] = (), comments: Sequence[str] = ()
) -> str:
    """A bash script that goes to its own folder and ends in a command.

    Args:
        before: lines that come before it, quoted already.
        comments: said at the top.
    """
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            *(f"# {inert(comment)}".rstrip() for comment in comments),
            "set -euo pipefail",
            'cd "$(dirname "${BASH_SOURCE[0]}")"',
            *(f"export {name}={word(value)}" for name, value in environment(plan).items()),
            *before,
            f"exec {line(command)}",
            "",
        ]
    )


def line(words: Sequence[str]) -> str:
    """Words as one command; those of a ``Shell`` as they are.

    >>> print(line(["torchrun", Shell('--node-rank="$NODE_RANK"'), "it's"]))
    torchrun --node-rank="$NODE_RANK" 'it'"'"'s'
    """
    return " ".join(str(each) if isinstance(each, Shell) else word(each) for each in words)


def environment(plan: Plan) -> Mapping[str, str]:
    """What the run needs set before Python starts."""
    found = {"TOKENIZERS_PARALLELISM": "false"}
    if plan.setup.alloc_conf:
        found |= dict.fromkeys(("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"), plan.setup.alloc_conf)
    if plan.device is not None and plan.device.kind == "cpu":
        found["CUDA_VISIBLE_DEVICES"] = ""
    if plan.setup.sharding == "fsdp":  # accelerate and transformers read these before there is any config
        offloads = str(plan.setup.offload == "all").lower()
        found |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}
        found |= {"FSDP_OFFLOAD_PARAMS": offloads}
    return found | ({"HF_HUB_OFFLINE": "1"} if plan.model.path is not None else {})


def word(text: str) -> str:
    r"""Text as one word of bash, in printable ASCII: bytes are escaped where a terminal could be steered.

    >>> print(word("it's"), word("a\x1b\n"))
    'it'"'"'s' $'a\x1b\x0a'
    """
    if all(" " <= one <= "~" for one in text):
        return shlex.quote(text)
    octets = text.encode("utf-8", "surrogateescape")
    plain = (chr(octet) if chr(octet).isascii() and chr(octet).isalnum() else f"\\x{octet:02x}" for octet in octets)
    return "$'" + "".join(plain) + "'"


def data_check(plan: Plan) -> list[str]:
    """Lines that stop a script where the training file is not the planned one."""
    if plan.data is None:
        return []
    listed = f"{plan.data.sha256}  {plan.data.path}"
    if "\n" in plan.data.path or "\\" in plan.data.path:  # sha256sum escapes such names, and marks the line
        listed = "\\" + listed.replace("\\", "\\\\").replace("\n", "\\n")
    return [f"printf '%s\\n' {word(listed)} | sha256sum --check --quiet"]


def link(path: str, name: str) -> str:
    """A line that makes ``name``, in the script's folder, a link to a file."""
    return f"ln -sfn -- {word(path)} {word(name)}"
