"""Exports that an engine must take, and deliberately broken ones that it must not."""

from collections.abc import Callable, Iterator

from tests.unit.export_plans import BY_ENGINE, METHODS, RANKED, source
from vramplan.planner.export.engine import Files, export
from vramplan.planner.export.engines import ENGINES
from vramplan.planner.methods import Full

CONFIGS = {
    "accelerate": "accelerate.yaml",
    "axolotl": "config.yaml",
    "kubernetes": "job.yaml",
    "llamafactory": "train.yaml",
    "pytorchjob": "job.yaml",
    "skypilot": "task.yaml",
    "slurm": "job.sbatch",
    "trl": "sft.yaml",
}
"""The file of each export that its engine parses."""


def _replaced(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


def _added(line: str) -> Callable[[str], str]:
    return lambda text: f"{text}{line}\n"


BROKEN: dict[str, dict[str, Callable[[str], str]]] = {
    "accelerate": {"an unknown key": _added("machines: 1")},
    "axolotl": {
        "an unknown key": _added("lora_rank: 16"),
        "words for a number": _replaced("micro_batch_size: 1", 'micro_batch_size: "one"'),
        "an unknown key of a dataset": _replaced('ds_type: "json"', 'kind: "json"'),
    },
    "kubernetes": {
        "an unknown key": _replaced("restartPolicy:", "restart:"),
        "words for a number": _replaced("backoffLimit: 0", 'backoffLimit: "none"'),
    },
    "llamafactory": {
        "an unknown key": _added("lora_r: 16"),
        "an unknown choice": _replaced('optim: "adamw_torch_fused"', 'optim: "adam_fused"'),
    },
    "pytorchjob": {
        "an unknown key": _replaced("pytorchReplicaSpecs:", "replicaSpecs:"),
        "an unknown key deep inside": _replaced("claimName:", "claim:"),
    },
    "skypilot": {
        "an unknown key": _added('command: "python train.py"'),
        "words for a number": _replaced("num_nodes: 1", 'num_nodes: "one"'),
        "an unknown resource": _replaced("accelerators:", "accelerator:"),
    },
    "slurm": {
        "an unknown option": _replaced("--ntasks=1", "--tasks-in-all=1"),
    },
    "trl": {
        "an unknown key": _added("lora_rank: 16"),
        "an unknown choice": _replaced('optim: "adamw_torch_fused"', 'optim: "adam_fused"'),
    },
}


def valid(engine: str) -> Iterator[tuple[str, Files]]:
    """Every method on every kind of rows the engine has."""
    for number, method in enumerate(BY_ENGINE.get(engine, (METHODS[1],))):
        for row_kind in ("text", "prompt-completion", "messages"):
            if (engine, row_kind) == ("llamafactory", "prompt-completion"):
                continue
            recipe = {"completion_only": engine == "llamafactory" or row_kind != "messages"}
            given = source(engine, method, row_kind=row_kind, recipe=recipe)
            yield f"{number} {method.kind}, {row_kind}", export(ENGINES[engine], given)
    for sharding in ("fsdp", "ddp") if engine in RANKED else ():
        given = source(engine, Full(), setup={"sharding": sharding, **RANKED[engine]})
        yield f"{sharding}, several processes", export(ENGINES[engine], given)


def broken(engine: str) -> Iterator[tuple[str, Files]]:
    """One export, broken in one place."""
    files = export(ENGINES[engine], source(engine))
    name = CONFIGS[engine]
    for what, change in BROKEN[engine].items():
        yield what, files | {name: change(files[name])}
