"""One engine's own parser over folders of exports. Run by exports.py with an interpreter that has the engine.

Prints one JSON object on its last line. Imports nothing of ours, and each engine only when asked for.
"""

import contextlib
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path


def ask_axolotl(config):
    import yaml
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from axolotl.utils.schemas.datasets import SFTDataset

    content = yaml.safe_load(config.read_text())
    known(content, AxolotlInputConfig.model_fields)  # pydantic ignores what it does not know
    for dataset in content["datasets"]:
        known(dataset, SFTDataset.model_fields)
    AxolotlInputConfig(**content)


def axolotl_schema(content):
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from axolotl.utils.schemas.datasets import SFTDataset

    schema = fields_schema({name: field.annotation for name, field in AxolotlInputConfig.model_fields.items()}, content)
    dataset = fields_schema(
        {name: field.annotation for name, field in SFTDataset.model_fields.items()}, content["datasets"][0]
    )
    for name in ("datasets", "test_datasets"):
        schema["properties"][name] = {"type": "array", "items": dataset}
    return schema


def ask_llamafactory(config):
    import llamafactory.hparams.parser as parser
    import transformers.training_args as training_args
    import yaml

    # The parser asks for a GPU with bf16, and there is none here.
    training_args.is_torch_bf16_gpu_available = parser.is_torch_bf16_gpu_available = lambda: True
    os.chdir(config.parent)
    parser.get_train_args(yaml.safe_load(config.read_text()))


def llamafactory_schema(content):
    import dataclasses

    from llamafactory.hparams.parser import _TRAIN_ARGS

    return fields_schema({f.name: f.type for one in _TRAIN_ARGS for f in dataclasses.fields(one) if f.init}, content)


def ask_skypilot(config):
    import sky

    os.chdir(config.parent)
    sky.Task.from_yaml(config.name)


def skypilot_schema(content):
    from sky.utils import schemas

    schema, resources = schemas.get_task_schema(), schemas.get_resources_schema()
    schema["properties"]["resources"] = pruned(resources, content["resources"])
    return pruned(schema, {name: value for name, value in content.items() if name != "resources"}, ("resources",))


def ask_kubernetes(config):
    import kubernetes_validate
    import yaml

    for document in yaml.safe_load_all(config.read_text()):
        kubernetes_validate.validate(document, "1.31", strict=True)


def kubernetes_schema(content):
    from kubernetes.client import V1Job

    return model_schema(V1Job, content)


def ask_pytorchjob(config):
    import yaml
    from kubeflow.training import ApiClient, models

    job = list(yaml.safe_load_all(config.read_text()))[-1]

    class Response:
        data = json.dumps(job)

    read = ApiClient().deserialize(Response, models.KubeflowOrgV1PyTorchJob)
    if as_text(ApiClient().sanitize_for_serialization(read)) != as_text(job):
        raise ValueError("something of it is unknown: it is not read back")


def pytorchjob_schema(content):
    from kubeflow.training import models

    return model_schema(models.KubeflowOrgV1PyTorchJob, content)


def ask_slurm(config):
    done = subprocess.run(["sbatch", "--test-only", str(config)], capture_output=True, text=True, cwd=config.parent)
    if done.returncode:
        raise ValueError(done.stderr.strip())


VERSIONS = {
    "axolotl": ("axolotl",),
    "llamafactory": ("llamafactory", "transformers"),
    "skypilot": ("skypilot",),
    "kubernetes": ("kubernetes-validate", "kubernetes"),
    "pytorchjob": ("kubeflow-training", "kubernetes"),
}


def versions(engine):
    if engine == "slurm":
        return subprocess.run(["sbatch", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return ", ".join(f"{name} {version(name)}" for name in VERSIONS[engine])


def known(content, names):
    unknown = sorted(set(content) - set(names))
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}")


def fields_schema(fields, content):
    """Every name, and of those in use the type, where it is a plain one."""
    from pydantic import TypeAdapter

    schema = {"type": "object", "additionalProperties": False, "properties": {}}
    for name in sorted(fields):
        schema["properties"][name] = {}
        if name in content:
            with contextlib.suppress(Exception):
                found = TypeAdapter(fields[name]).json_schema()
                schema["properties"][name] = {} if "$defs" in found else found
    return schema


def pruned(schema, content, kept=()):
    """A JSON schema without the insides of what is not in use."""
    properties = schema["properties"]
    return schema | {
        "properties": {name: one if name in content or name in kept else {} for name, one in properties.items()}
    }


def model_schema(model, content):
    """A schema of a generated client's model, as deep as the content goes."""
    import importlib
    import re

    names = importlib.import_module(model.__module__.partition(".models")[0] + ".models")
    plain = {"str": "string", "int": "integer", "bool": "boolean"}

    def of(kind, value):
        inner = re.fullmatch(r"(?:list\[|dict\(str, )(.*)[\])]", kind)
        if inner and isinstance(value, list):
            merged = [of(inner[1], item) for item in value]
            return {"type": "array", "items": deepest(merged)}
        if inner and isinstance(value, dict):
            return {"type": "object", "additionalProperties": deepest([of(inner[1], item) for item in value.values()])}
        found = getattr(names, kind, None) or getattr(importlib.import_module("kubernetes.client"), kind, None)
        if found is not None and isinstance(value, dict) and hasattr(found, "openapi_types"):
            return model_schema(found, value)
        return {"type": plain[kind]} if kind in plain else {}

    properties = {}
    for attribute, name in model.attribute_map.items():
        properties[name] = of(model.openapi_types[attribute], content[name]) if name in content else {}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def deepest(schemas):
    """The properties of several schemas of one kind together."""
    merged = schemas[0]
    for schema in schemas[1:]:
        if "properties" in schema:
            both = {**merged["properties"]}
            for name, one in schema["properties"].items():
                both[name] = one or both.get(name, {})
            merged = merged | {"properties": both}
    return merged


def as_text(value):
    if isinstance(value, dict):
        return {key: as_text(one) for key, one in value.items()}
    return [as_text(one) for one in value] if isinstance(value, list) else str(value)


def main():
    engine, config, folder = sys.argv[1:4]
    answer = {"version": versions(engine), "valid": {}, "broken": {}}
    for kind in ("valid", "broken"):
        for case in sorted(Path(folder, kind).iterdir()):
            error = None
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    globals()[f"ask_{engine}"](case / config)
            except Exception as problem:
                error = f"{type(problem).__name__}: {problem}".splitlines()[0][:300]
            answer[kind][case.name] = error
    if "--schema" in sys.argv and f"{engine}_schema" in globals():
        import yaml

        contents = {}
        for case in sorted(Path(folder, "valid").iterdir()):
            contents |= list(yaml.safe_load_all((case / config).read_text()))[-1]
        answer["schema"] = globals()[f"{engine}_schema"](contents)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
