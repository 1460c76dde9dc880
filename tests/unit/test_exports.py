"""Exports say everything a plan says, or refuse it by name; and nothing in a plan is ever run."""

import ast
import errno
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import make_cpu, make_device
from tests.unit.export_plans import BY_ENGINE, METHODS, RANKED, neighbours, source
from vramplan.planner.adapters.plan_files import write_plan
from vramplan.planner.cli.main import main
from vramplan.planner.errors import UnsupportedError
from vramplan.planner.export.engine import Source, choices, export
from vramplan.planner.export.engines import ENGINES
from vramplan.planner.export.shell import data_check
from vramplan.planner.export.yaml_text import yaml_text
from vramplan.planner.methods import Full, Lora, Prompt, Qlora
from vramplan.planner.plan import PlannedData

HOSTILE = (
    "a b'; touch pwned; $(touch pwned) `touch pwned` $HOME \"\"\" ''' \\ # : {x} [y] %s \n#SBATCH -w x\n\u202e\x1b[31m"
)
TRAINERS = ("axolotl", "llamafactory", "trl")
CASES = [(name, method) for name in ENGINES for method in BY_ENGINE.get(name, METHODS[1:2])]


@pytest.mark.parametrize(("engine", "method"), CASES, ids=lambda value: getattr(value, "kind", value))
def test_each_field_changed_alone_changes_the_export_or_is_refused_by_name(engine: str, method: Any) -> None:
    assert _dropped(engine, source(engine, method)) == []


SHARDED = [("fsdp", Full()), ("fsdp", Lora()), ("fsdp", Qlora()), ("ddp", Lora())]


@pytest.mark.parametrize(("sharding", "method"), SHARDED, ids=lambda value: getattr(value, "kind", value))
@pytest.mark.parametrize("engine", RANKED)
def test_each_field_of_a_plan_for_several_gpus_is_said_or_refused_by_name(
    engine: str, sharding: str, method: Any
) -> None:
    if engine == "script" or isinstance(method, Full):  # what starts the script takes no notice of the method
        given = source(engine, method, setup={"sharding": sharding, **RANKED[engine]})
        assert _dropped(engine, given) == []


def _dropped(engine: str, given: Source) -> list[str]:
    """Fields that an export neither says nor refuses."""
    before = export(ENGINES[engine], given)
    dropped = []
    for field, value, plan in neighbours(given.plan):
        try:
            after = export(ENGINES[engine], Source(plan, given.row_kind))
        except UnsupportedError as refusal:
            if field not in refusal.message:
                dropped.append(f"{field} = {value!r}: refused without its name: {refusal.message}")
            continue
        if after == before:
            dropped.append(f"{field} = {value!r}: nothing changed")
    return dropped


def test_the_neighbours_reach_every_choice() -> None:
    given = source("script")
    reached = {field for field, _, _ in neighbours(given.plan)}
    assert reached == set(choices(given.plan)) - {"device.kind"}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_field_nobody_told_the_engine_of_is_refused_once_it_is_set(engine: str) -> None:
    given = source(engine)
    untold = ENGINES[engine]._replace(
        tells={f: w for f, w in ENGINES[engine].tells.items() if f != "recipe.eval_steps"}
    )
    with pytest.raises(UnsupportedError, match=r"recipe\.eval_steps 10: it has no such setting"):
        export(untold, given)


@pytest.mark.parametrize(
    ("engine", "changes", "words", "nearest"),
    [
        ("axolotl", {"loss": "fused"}, "setup.loss fused: it runs the model's own loss", "--loss standard"),
        ("axolotl", {"packing": True}, "setup.packing True: without flash_attention_2", "--no-packing"),
        ("llamafactory", {"kbit_preparation": True}, "setup.kbit_preparation True", "--no-kbit-preparation"),
        ("trl", {"loss": "standard"}, "setup.loss standard: trl's trainer always runs", "--loss fused"),
        ("trl", {"sharding": "fsdp"}, "setup.sharding fsdp: it has no such setting", "--sharding none"),
        ("torchrun", {"gpus": 2}, "setup.gpus 2: without setup.sharding each", "--sharding ddp"),
        ("torchrun", {"sharding": "ddp"}, "setup.sharding ddp: there is one process", "--sharding none"),
        ("slurm", {"gpus": 2, "sharding": "zero2"}, "setup.sharding zero2: DeepSpeed", "--sharding fsdp"),
        ("slurm", {"gpus": 2, "sharding": "ddp", "offload": "all"}, "setup.offload all", "--offload none"),
        ("script", {"gpus": 2, "sharding": "fsdp", "method": Qlora(quant="int8")}, "setup.method.quant int8", "nf4"),
        ("script", {"gpus": 2, "sharding": "fsdp", "method": Lora(init_lora_weights="pissa")}, "init_lora", "gaussian"),
        ("kubernetes", {"nodes": 2, "sharding": "ddp"}, "setup.nodes 2: a Job here is one pod", "pytorchjob"),
        ("trl", {"method": METHODS[4]}, "setup.method.kind layerwise: it has no such method", "--method lora"),
        ("slurm", {"method": METHODS[-1]}, "setup.method.kind adapter: bottleneck adapters are", "--method lora"),
    ],
)
def test_a_refusal_names_field_value_and_the_nearest_that_can_be_said(
    engine: str, changes: dict[str, Any], words: str, nearest: str
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        export(ENGINES[engine], source(engine, setup=changes))
    assert f"{engine} cannot be told" in caught.value.message
    assert words in caught.value.message
    assert nearest in str(caught.value.remedy)


def test_skypilot_is_asked_for_devices_it_rents_alone() -> None:
    rented = export(ENGINES["skypilot"], source("skypilot"))
    assert '"RTX4090:1"' in rented["task.yaml"]
    own = make_device(name="NVIDIA GeForce GTX 1060 6 GB", profile="NVIDIA GeForce GTX 1060 6 GB")
    with pytest.raises(UnsupportedError, match=r"device\.name NVIDIA GeForce GTX 1060"):
        export(ENGINES["skypilot"], source("skypilot", device=own))
    assert "accelerators" not in export(ENGINES["skypilot"], source("skypilot", device=make_cpu()))["task.yaml"]


def test_a_chat_template_goes_with_the_script_and_other_trainers_refuse_it() -> None:
    template = {"recipe": {"chat_template": "rows/chat template.jinja"}}
    script = export(ENGINES["script"], source("script", **template))["train.py"]
    assert "default='rows/chat template.jinja'" in script.replace('"', "'")
    task = export(ENGINES["skypilot"], source("skypilot", **template))["task.yaml"]
    assert '"~/plan/chat-template/chat template.jinja": "rows/chat template.jinja"' in task
    for engine in TRAINERS:
        with pytest.raises(UnsupportedError, match=r"recipe\.chat_template rows/chat template\.jinja"):
            export(ENGINES[engine], source(engine, **template))


def test_nodes_find_one_another() -> None:
    def told(engine: str, file: str, **layout: Any) -> str:
        given = source(engine, Full(), setup={"sharding": "fsdp", **layout})
        return next(line for line in export(ENGINES[engine], given)[file].splitlines() if "torchrun" in line)

    several, one = {"gpus": 8, "nodes": 2}, {"gpus": 4}
    assert told("torchrun", "run.sh", **one) == "exec torchrun --standalone --nnodes=1 --nproc-per-node=4 train.py"
    assert told("torchrun", "run.sh", **several) == (
        'exec torchrun --node-rank="${NODE_RANK:?of this node, from 0}" '
        '--master-addr="${MASTER_ADDR:?of the first node}" --master-port=29500 --nnodes=2 --nproc-per-node=8 train.py'
    )
    assert told("slurm", "job.sbatch", **several) == (
        'srun --ntasks=2 torchrun --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" '
        '--rdzv-endpoint="$MASTER_ADDR:29500" --nnodes=2 --nproc-per-node=8 train.py'
    )


@pytest.mark.parametrize("offload", ["none", "all"])
def test_the_script_tells_fsdp2_what_its_price_assumes(offload: Any) -> None:
    setup = {"gpus": 2, "sharding": "fsdp", "offload": offload}
    told = {}
    for method in (Full(), Qlora()):
        text = export(ENGINES["script"], source("script", method, setup=setup))["train.py"]
        calls = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
        arguments = next(node for node in calls if getattr(node.func, "id", "") == "SFTConfig").keywords
        told[method.kind] = {
            word.arg: ast.literal_eval(word.value)
            for word in arguments
            if word.arg in ("fsdp_config", "accelerator_config")
            for word in arguments
            if word.arg in ("fsdp_config", "accelerator_config")
        }
    for method, once in (("full", True), ("qlora", False)):
        assert told[method] == {
            "fsdp_config": {
                "version": 2,
                "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "reshard_after_forward": True,
                "cpu_offload": offload == "all",
                "cpu_ram_efficient_loading": once,
                "state_dict_type": "FULL_STATE_DICT",
            },
            "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
        }


def _hostile(engine: str, **changes: Any) -> Source:
    """A plan whose every string is out to get us."""
    path = HOSTILE.replace("/", "") + ".jsonl"
    method = Prompt(prompt_tuning_init_text=HOSTILE) if engine not in TRAINERS else Lora(target_modules=(HOSTILE, "a"))
    recipe = {"data": path, "eval_data": path, "output_dir": HOSTILE, "eval_steps": 10}
    setup = {"alloc_conf": HOSTILE, **changes.pop("setup", {})}
    given = source(engine, method, setup=setup, recipe=recipe, **changes)
    model = given.plan.model.model_copy(update={"repo_id": HOSTILE, "path": None, "revision": HOSTILE})
    return given._replace(plan=given.plan.model_copy(update={"model": model}))


ALONE = [(name, {}) for name in ENGINES if name != "skypilot"]
TOGETHER = [(name, {"sharding": "ddp", **RANKED[name]}) for name in ("torchrun", "accelerate", "slurm")]


@pytest.mark.parametrize(("engine", "setup"), ALONE + TOGETHER)
def test_shell_files_run_nothing_a_plan_holds(engine: str, setup: Any, tmp_path: Path) -> None:
    given = _hostile(engine, setup=setup)
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("python", "srun", "trl", "axolotl", "llamafactory-cli", "accelerate", "torchrun", "scontrol"):
        stub = commands / name
        stub.write_text('#!/bin/sh\nprintf "%s\\n" "$PYTORCH_ALLOC_CONF" > "$OLDPWD/ran" 2>/dev/null || exit 1\n')
        stub.chmod(0o755)
    data = tmp_path / "data.jsonl"
    data.write_text("{}\n")
    work = tmp_path / "work"
    work.mkdir()
    for name, text in export(ENGINES[engine], given).items():
        (work / name).write_text(text, encoding="utf-8")
        if not text.startswith("#!/usr/bin/env bash"):
            continue
        text = text.replace(data_check(given.plan)[0] + "\n", "")  # there is no such file here
        (work / name).write_text(text, encoding="utf-8")
        environment = {"PATH": f"{commands}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(work), "HOME": str(tmp_path)}
        environment |= {"NODE_RANK": "0", "MASTER_ADDR": "first", "SLURM_JOB_NODELIST": "first", "SLURM_JOB_ID": "1"}
        done = subprocess.run(["bash", str(work / name)], env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "ran").read_text() == HOSTILE + "\n"
    assert list(tmp_path.rglob("pwned*")) == []


@pytest.mark.parametrize("method", METHODS[:-1], ids=lambda method: method.kind)
def test_what_a_plan_holds_stays_a_constant_of_the_script(method: Any) -> None:
    class Blank(ast.NodeTransformer):
        def visit_Constant(self, node: ast.Constant) -> ast.Constant:
            return ast.Constant(value=0)

    def shape(given: Source) -> str:
        text = export(ENGINES["script"], given)["train.py"]
        return ast.dump(Blank().visit(ast.parse(text)))

    plain = source("script", method)
    recipe = {"data": HOSTILE + ".jsonl", "eval_data": HOSTILE + ".jsonl", "output_dir": HOSTILE}
    hostile = source("script", method, recipe=recipe, setup={"alloc_conf": HOSTILE})
    model = plain.plan.model.model_copy(update={"repo_id": HOSTILE, "revision": HOSTILE})
    hostile = hostile._replace(plan=hostile.plan.model_copy(update={"model": model}))
    assert shape(hostile) == shape(plain)
    values = {
        node.value
        for node in ast.walk(ast.parse(export(ENGINES["script"], hostile)["train.py"]))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert {HOSTILE, HOSTILE + ".jsonl"} <= values


@pytest.mark.parametrize("engine", ENGINES)
def test_exports_are_printable_ascii(engine: str) -> None:
    if engine != "skypilot":
        for text in export(ENGINES[engine], _hostile(engine)).values():
            assert all(" " <= one <= "~" or one == "\n" for one in text)


def test_a_batch_script_has_no_directive_of_the_plans() -> None:
    text = export(ENGINES["slurm"], _hostile("slurm"))["job.sbatch"]
    lines = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert [line.partition("=")[0] for line in lines] == [
        f"#SBATCH --{name}" for name in ("job-name", "nodes", "ntasks", "cpus-per-task", "output", "gres")
    ]


def test_yaml_is_read_back_as_it_was_by_another_parser() -> None:
    yaml = pytest.importorskip("yaml")
    content = {
        "strings": [HOSTILE, "no", "1e3", "~", "", "\x85\u2028\U0001f600", "- a", "? b", "null"],
        "numbers": [2e-5, 1e22, 0.1, -3, 10**18],
        "deep": [{"a": {"b": [], "c": {}}, "d": [[1, 2], ["x"]]}, None, True],
        'odd "key": {': 1,
        "blocks": [
            "a: b\n\n  # c\n- d\n",
            "x\n\n",
            " x\n",
            "x \ny\n",
            "\n",
            "|\n",
            {"in": "--- \n...\n"},
            "---\n...\n",
        ],
    }
    assert yaml.safe_load(yaml_text(content, "a comment", "with\na break: yes")) == content


def test_a_version_that_is_none_is_refused() -> None:
    given = source("script")
    with pytest.raises(UnsupportedError, match="names version"):
        export(ENGINES["script"], given._replace(plan=given.plan.model_copy(update={"packages": {"torch": "1\n-e ."}})))
    local = given.plan.model_copy(update={"packages": {"torch": "2.13.0+cpu"}})
    assert "torch==2.13.0\n" in export(ENGINES["script"], given._replace(plan=local))["requirements.txt"]


@pytest.fixture
def plan_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    write_plan(source("trl").plan, tmp_path / "plan.json")
    return tmp_path / "plan.json"


def test_the_command_writes_files_beside_the_plan_and_never_over_others(
    plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "plan.json", "--to", "trl"]) == 0
    folder = plan_file.parent / "export-trl"
    assert sorted(path.name for path in folder.iterdir()) == ["requirements.txt", "run.sh", "sft.yaml"]
    assert os.access(folder / "run.sh", os.X_OK)
    assert str(plan_file.parent / "rows" / "train.jsonl") in (folder / "run.sh").read_text()
    capsys.readouterr()
    assert main(["export", "plan.json", "--to", "trl"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["export", "plan.json", "--to", "trl", "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == "export-trl"


def test_an_export_that_finds_no_room_leaves_no_halves(
    plan_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_part: Path, _target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert main(["export", "plan.json", "--to", "trl"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list((plan_file.parent / "export-trl").iterdir()) == []


def test_the_command_refuses_by_name_and_writes_nothing(plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "plan.json", "--to", "axolotl"]) == 2
    said = capsys.readouterr().err
    assert "axolotl cannot be told setup.loss fused" in said
    assert "--loss standard" in said
    assert not (plan_file.parent / "export-axolotl").exists()
    (plan_file.parent / "rows" / "train.jsonl").unlink()
    assert main(["export", "plan.json", "--to", "trl"]) == 2
    assert "the file is not here" in capsys.readouterr().err
    assert main(["export", "plan.json", "--to", "axolotle"]) == 2
    assert "did you mean axolotl?" in capsys.readouterr().err


def test_the_command_shows_where_each_field_goes(plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(plan_file), "--to", "axolotl", "--fields"]) == 0
    assert "sequence_len" in capsys.readouterr().out


def test_a_changed_data_file_stops_a_shell_script(tmp_path: Path) -> None:
    for name in ("plain.jsonl", "it's \\odd\n.jsonl"):
        (tmp_path / name).write_text("one\n")
        sha256 = "2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806"  # printf 'one\n' | sha256sum
        plan = source("trl").plan.model_copy(update={"data": PlannedData(path=name, sha256=sha256, size_bytes=4)})
        line = data_check(plan)[0]
        codes = []
        for content in ("one\n", "two\n"):
            (tmp_path / name).write_text(content)
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", line], cwd=tmp_path, capture_output=True, check=False
            )
            codes.append(done.returncode)
        assert codes[0] == 0
        assert codes[1] != 0


@pytest.mark.parametrize("quant", ["nf4", "fp4", "int8"])
def test_how_the_base_is_quantised_is_told(quant: Any) -> None:
    texts = {
        name: export(ENGINES[name], source(name, Qlora(quant=quant))) for name in ("axolotl", "llamafactory", "trl")
    }
    bits = quant == "int8"
    assert f"load_in_8bit: {str(bits).lower()}" in texts["axolotl"]["config.yaml"]
    assert f"quantization_bit: {8 if bits else 4}" in texts["llamafactory"]["train.yaml"]
    assert ("load_in_8bit: true" if bits else f'bnb_4bit_quant_type: "{quant}"') in texts["trl"]["sft.yaml"]


def test_the_page_on_exports_names_every_engine_and_file() -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    for engine in ENGINES:
        assert f"| `{engine}` |" in page
        row = next(line for line in page.splitlines() if line.startswith(f"| `{engine}` |"))
        files = set(export(ENGINES[engine], source(engine))) - (
            {"train.py", "requirements.txt"} if "the script" in row else set()
        )
        assert {file for file in files if f"`{file}" not in row} == set()
