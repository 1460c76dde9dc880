"""Where the standalone script runs on a rented or shared machine: SkyPilot, Kubernetes, Kubeflow's PyTorchJob.

The script travels with the export. Data, and a model in a folder, keep their names and change their place; the result
and the report come back from there too. The script checks the data's content wherever it lies.
"""

import posixpath
from collections.abc import Iterator, Sequence
from typing import Any

from vramplan.planner.export.engine import Engine, Files, Refusal, Source
from vramplan.planner.export.header import header, slug
from vramplan.planner.export.ranks import first_node, one_node, script_limits, several, torchrun
from vramplan.planner.export.script import FIELDS, REQUIREMENTS, SCRIPT
from vramplan.planner.export.script import write as write_script
from vramplan.planner.export.shell import environment, line, word
from vramplan.planner.export.trainer import on_cpu
from vramplan.planner.export.yaml_text import yaml_text
from vramplan.planner.plan import Plan

IMAGE = "python:3.12"
"""Official, and has what pip needs; PyTorch's own wheels bring CUDA."""
CLAIM = "vramplan-workspace"
"""The persistent volume claim that holds the data and takes the result."""
WORKSPACE = "/workspace"
_SKY_HOME = "~/plan"

ACCELERATORS = {
    "NVIDIA Tesla P4": "P4",
    "NVIDIA Tesla P100 PCIe 16 GB": "P100",
    "NVIDIA Tesla V100 PCIe 16 GB": "V100",
    "NVIDIA Tesla V100 SXM2 16 GB": "V100",
    "NVIDIA Tesla V100 SXM2 32 GB": "V100-32GB",
    "NVIDIA Tesla T4": "T4",
    "NVIDIA A10 PCIe": "A10",
    "NVIDIA A10G": "A10G",
    "NVIDIA A40 PCIe": "A40",
    "NVIDIA A100 PCIe 40 GB": "A100",
    "NVIDIA A100 SXM4 40 GB": "A100",
    "NVIDIA A100 PCIe 80 GB": "A100-80GB",
    "NVIDIA A100 SXM4 80 GB": "A100-80GB",
    "NVIDIA L4": "L4",
    "NVIDIA L40": "L40",
    "NVIDIA L40S": "L40S",
    "NVIDIA H100 PCIe 80 GB": "H100",
    "NVIDIA H100 SXM5 80 GB": "H100",
    "NVIDIA H200 SXM 141 GB": "H200",
    "NVIDIA GH200 96 GB": "GH200",
    "NVIDIA B200": "B200",
    "NVIDIA GeForce RTX 3090": "RTX3090",
    "NVIDIA GeForce RTX 4090": "RTX4090",
    "NVIDIA GeForce RTX 5090": "RTX5090",
    "NVIDIA RTX A4000": "RTXA4000",
    "NVIDIA RTX A5000": "RTXA5000",
    "NVIDIA RTX A6000": "RTXA6000",
    "NVIDIA RTX 6000 Ada Generation": "RTX6000-Ada",
}
"""Our profiles' names and SkyPilot's (its accelerator registry and catalogues, 0.14)."""


def refuses_skypilot(source: Source) -> Iterator[Refusal]:
    """A device SkyPilot has no name for, and paths it would read as variables."""
    plan = source.plan
    yield from script_limits(source)
    name = plan.device.profile or plan.device.name if plan.device else "none"
    if not on_cpu(plan) and _accelerator(plan) is None:
        yield Refusal("device.name", name, "SkyPilot rents no such device", "--device H100, or another it rents")
    yield from _steering(source, "$", "SkyPilot reads $ in a path as a variable")


def write_skypilot(source: Source) -> Files:
    """The script, and a SkyPilot task."""
    plan = source.plan
    accelerator = _accelerator(plan)
    places, mounts = _places(plan, _SKY_HOME)
    task = {
        "name": slug(plan),
        "resources": {"cpus": "4+"} if accelerator is None else {"accelerators": f"{accelerator}:{plan.setup.gpus}"},
        "num_nodes": plan.setup.nodes,
        "workdir": ".",
        "file_mounts": mounts,
        "envs": dict(environment(plan)),
        "setup": f"pip install --requirement {REQUIREMENTS}\n",
        "run": f"mkdir -p {_SKY_HOME}\n{line(_start(plan, _BY_SKYPILOT))} {SCRIPT} {_words(places)}\n",
    }
    return write_script(source) | {"task.yaml": yaml_text(task, *header(plan), "sky launch task.yaml")}


def refuses_kubernetes(source: Source) -> Iterator[Refusal]:
    """A Job of several machines."""
    yield from script_limits(source)
    yield from one_node(source, "a Job here is one pod, on one node", "--nodes 1; or export --to pytorchjob")


def write_kubernetes(source: Source) -> Files:
    """The script, and a Job."""
    spec = {"backoffLimit": 0, "template": {"spec": _pod(source.plan)}}
    return _manifest(source, {"apiVersion": "batch/v1", "kind": "Job"}, spec)


def write_pytorchjob(source: Source) -> Files:
    """The script, and a PyTorchJob: a pod each node."""
    pod = _pod(source.plan, container="pytorch")  # the operator looks for this name
    restart = pod.pop("restartPolicy")
    replica = {"restartPolicy": restart, "template": {"spec": pod}}
    others = source.plan.setup.nodes - 1
    replicas = {"Master": {"replicas": 1, **replica}} | ({"Worker": {"replicas": others, **replica}} if others else {})
    spec = {"runPolicy": {"backoffLimit": 0}, "pytorchReplicaSpecs": replicas}
    return _manifest(source, {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob"}, spec)


def _manifest(source: Source, kind: dict[str, Any], spec: dict[str, Any]) -> Files:
    plan = source.plan
    files = write_script(source)
    name = slug(plan)
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": files}
    job = kind | {"metadata": {"name": name}, "spec": spec}
    wanted = sorted(path.removeprefix(f"{WORKSPACE}/") for path in _places(plan, WORKSPACE)[1])
    comments = (*header(plan), f"The volume claim {CLAIM} must hold {', '.join(wanted)}; the result goes there too.")
    text = yaml_text(config_map, *comments) + "---\n" + yaml_text(job)
    return files | {"job.yaml": text}


def _pod(plan: Plan, container: str = "train") -> dict[str, Any]:
    places, _ = _places(plan, WORKSPACE)
    gpu = {} if on_cpu(plan) else {"resources": {"limits": {"nvidia.com/gpu": str(plan.setup.gpus)}}}
    shared = several(plan)  # processes of a node pass tensors through it, and a container has 64 MiB of it
    return {
        "restartPolicy": "Never",
        "containers": [
            {
                "name": container,
                "image": IMAGE,
                "command": [
                    "sh",
                    "-c",
                    f"pip install --requirement /export/{REQUIREMENTS} && "
                    f'exec {line(_start(plan, _BY_KUBEFLOW))} /export/{SCRIPT} "$@"',
                ],
                "args": ["train", *(_unexpanded(word) for one in places.items() for word in one)],
                "env": [{"name": name, "value": _unexpanded(value)} for name, value in environment(plan).items()],
                "volumeMounts": [
                    {"name": "export", "mountPath": "/export"},
                    {"name": "workspace", "mountPath": WORKSPACE},
                    *([{"name": "shared-memory", "mountPath": "/dev/shm"}] if shared else []),
                ],
                **gpu,
            }
        ],
        "volumes": [
            {"name": "export", "configMap": {"name": slug(plan)}},
            {"name": "workspace", "persistentVolumeClaim": {"claimName": CLAIM}},
            *([{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}] if shared else []),
        ],
    }


_BY_SKYPILOT = first_node('"$(printf \'%s\\n\' "$SKYPILOT_NODE_IPS" | head -n 1)"', '"$SKYPILOT_NODE_RANK"')
_BY_KUBEFLOW = first_node('"$MASTER_ADDR"', '"$RANK"', '"$MASTER_PORT"')
"""Its training operator numbers the pods and names the first."""


def _start(plan: Plan, rendezvous: Sequence[str]) -> list[str]:
    """The words before the script's name."""
    return torchrun(plan, rendezvous=rendezvous) if several(plan) else ["python"]


def _unexpanded(word: str) -> str:
    """Kubernetes replaces $(NAME) in arguments; $$ is its way to write $."""
    return word.replace("$", "$$")


def _places(plan: Plan, home: str) -> tuple[dict[str, str], dict[str, str]]:
    """Options that tell the script of its places under ``home``, and which local path each file there comes from."""
    local = {
        "--data": plan.data.path if plan.data else "",
        "--eval-data": plan.recipe.eval_data,
        "--chat-template": plan.recipe.chat_template,
        "--model": plan.model.path,
    }
    options, mounts = {}, {}
    for option, path in local.items():
        if path:
            options[option] = f"{home}/{option.removeprefix('--')}/{posixpath.basename(path)}"
            mounts[options[option]] = path
    options |= {"--output-dir": f"{home}/output", "--report": f"{home}/report.json"}
    return options, mounts


def _words(places: dict[str, str]) -> str:
    """Options for a shell, the home folder's ~ left for it to expand."""
    return " ".join(f"{option} ~/{word(path.removeprefix('~/'))}" for option, path in places.items())


def _accelerator(plan: Plan) -> str | None:
    name = (plan.device.profile or plan.device.name) if plan.device else ""
    return None if on_cpu(plan) else ACCELERATORS.get(name)


def _steering(source: Source, character: str, because: str) -> Iterator[Refusal]:
    plan = source.plan
    paths = {
        "data.path": plan.data.path if plan.data else None,
        "recipe.eval_data": plan.recipe.eval_data,
        "recipe.chat_template": plan.recipe.chat_template,
        "model.path": plan.model.path,
    }
    for field, path in paths.items():
        if path is not None and character in path:
            yield Refusal(field, path, because, f"a path without {character}")


SKYPILOT = Engine("skypilot", "the script, and a task for SkyPilot", FIELDS, refuses_skypilot, write_skypilot)
KUBERNETES = Engine("kubernetes", "the script, and a Job for Kubernetes", FIELDS, refuses_kubernetes, write_kubernetes)
PYTORCHJOB = Engine("pytorchjob", "the script, and Kubeflow's PyTorchJob", FIELDS, script_limits, write_pytorchjob)
