"""The planner's commands, end to end over canned prices: what is printed, what is JSON, how they end."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import make_budget, make_candidate, make_cpu, make_device, make_model_spec, make_plan
from tests.golden_text import assert_golden
from vramplan.planner.adapters.datasets import read_data_file
from vramplan.planner.adapters.plan_files import read_plan, write_plan
from vramplan.planner.candidate import Candidate
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.main import Command, command_modules, main, run_command
from vramplan.planner.device import Device
from vramplan.planner.errors import NoProgramError
from vramplan.planner.resolve import Resolved, resolve
from vramplan.planner.units import GIB

SIZES = {"full": 34, "lora": 14, "qlora": 9, "adapter": 15}


class World:
    """What the commands find: change ``device``, ``sizes`` or ``unpriced`` before calling ``main``."""

    device: Device | None = make_device()
    sizes = SIZES
    unpriced: tuple[str, ...] = ()
    runnable = True

    def look_up(self, args: Any) -> subjects.Subject:
        named = args.device not in (None, "auto") or args.memory is not None
        note = "NVIDIA GeForce RTX 4090" if self.device else "no device here: priced for an Ampere-class card"
        data = read_data_file(Path(args.data)) if args.data else None
        return subjects.Subject(make_model_spec(), self.device, note, named, data)

    def price(self, subject: subjects.Subject, resolved: Resolved, *, with_tensors: bool = True) -> Candidate:
        setup = resolved.setup
        if setup.method.kind in self.unpriced or setup.method.kind not in self.sizes:
            raise NoProgramError("no memory program for this architecture", remedy='pip install "vramplan[train]"')
        size = self.sizes[setup.method.kind] * GIB + (0 if setup.gradient_checkpointing else 10 * GIB)
        size -= 8 * GIB if "8bit" in setup.optimizer and setup.method.kind == "full" else 0
        budget = make_budget(process_bytes=size, total_params=subject.model.total_params)
        return make_candidate(
            model=subject.model,
            setup=setup,
            workload=resolved.workload,
            device=subject.device,
            budget=budget,
            runnable=self.runnable,
            not_runnable_because=None if self.runnable else "our executor runs trl's trainer only",
        )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    found = World()
    monkeypatch.setattr(subjects, "look_up", found.look_up)
    monkeypatch.setattr(subjects, "price", found.price)
    monkeypatch.setattr(subjects, "bounds_of", lambda subject, given: None)  # they would know the real prices
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    return found


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("estimate_one", "estimate llama --method qlora --rank 8"),
        ("estimate_each", "estimate llama --sequence-length 512"),
        ("recommend", "recommend llama --device 'RTX 4090' --micro-batch 2"),
        ("plan", "plan llama --method lora --data train.jsonl --max-steps 40 --output-dir out"),
        ("help", "--help"),
    ],
)
def test_the_output_is_the_golden_one(
    name: str, command: str, world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    assert main(shlex.split(command)) == 0
    output = capsys.readouterr()
    text = output.out
    plan = tmp_path / "runs" / "llama-2-layers-lora-r16" / "plan.json"
    if plan.exists():
        text = text.replace(read_plan(plan).fingerprint[:12], "<fingerprint>")
    assert_golden(f"{name}.txt", text)
    assert output.err == ""


def test_help_shows_what_people_need_and_help_all_every_option(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", "--help"]) == 0
    common = set(re.findall(r"--[a-z0-9-]+", capsys.readouterr().out))
    assert common == {
        "--device", "--memory", "--method", "--data", "--sequence-length", "--micro-batch", "--tokens-per-step",
        "--rank", "--gradient-checkpointing", "--no-gradient-checkpointing", "--optimizer",
        "--help", "--help-all", "--json", "--solve",
    }  # fmt: skip
    assert main(["plan", "--help-all"]) == 0
    everything = set(re.findall(r"--[a-z0-9-]+", capsys.readouterr().out))
    rare = """--task --num-labels --alpha --target --use-rslora --use-dora --quant --no-double-quant --virtual-tokens
        --adapter-kind --bottleneck-size --revision --reserve --dtype --mixed-precision --adapter-dtype --lora-dropout
        --target-length --gradient-accumulation-steps --padding --valid-labels --alloc-conf --attention --loss --loop
        --kbit-preparation --no-kbit-preparation --packing --gpus --nodes --sharding --offload --save-steps --seed"""
    assert (common - {"--solve"}) | set(rare.split()) <= everything


@pytest.mark.parametrize(("free", "code"), [(35.5, 0), (11, 0), (9.5, 3), (8, 1)])
def test_the_exit_code_is_the_best_verdict(free: float, code: int, world: World) -> None:
    world.device = make_device(free_bytes=int(free * GIB))
    assert main(["estimate", "llama"]) == code
    assert main(["estimate", "llama", "--method", "qlora"]) == code
    assert main(["recommend", "llama"]) == code


def test_without_a_device_there_is_no_verdict_and_no_failure(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.device = None
    assert main(["estimate", "llama", "--method", "lora", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["verdict"], answer["available_bytes"], answer["headroom_bytes"]) == (None, None, None)
    assert main(["estimate", "llama"]) == 0
    assert "no verdict" in capsys.readouterr().out


def test_a_named_device_without_a_verdict_ends_with_4(world: World) -> None:
    world.device = None
    assert main(["estimate", "llama", "--device", "M2 Ultra"]) == 4


def test_the_json_of_one_estimate_has_what_the_design_promises(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["estimate", "llama", "--method", "qlora", "--json"])
    answer = json.loads(capsys.readouterr().out)
    promised = """model total_params trainable_params setup phases peak_phase peak_allocated_bytes peak_reserved_bytes
        high_reserved_bytes process_bytes steady_allocated_bytes held verdict available_bytes headroom_bytes runnable
        options provenance"""
    assert set(promised.split()) <= set(answer)
    assert set(answer["phases"][0]) == {"name", "allocated_bytes", "lines"}
    line = {"component", "estimate_bytes", "high_bytes", "bytes_per_param", "because"}
    assert line <= set(answer["phases"][0]["lines"][0])
    for phase in answer["phases"]:
        assert sum(line["estimate_bytes"] for line in phase["lines"]) == phase["allocated_bytes"]
    assert {option["origin"] for option in answer["options"]} == {"given", "default", "derived"}


def test_the_json_of_every_method_is_one_object(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.unpriced = ("full",)
    assert main(["estimate", "llama", "--json", "--rank", "4"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [one["setup"]["method"]["kind"] for one in answer["estimates"]] == ["lora", "qlora", "adapter"]
    assert [one["setup"]["method"].get("r") for one in answer["estimates"]] == [4, 4, None]
    assert [row["method"] for row in answer["unpriced"]] == ["full"]


def test_when_nothing_can_be_priced_the_reason_is_the_error(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.unpriced = ("full", "lora", "qlora", "adapter")
    for command in ("estimate", "recommend", "plan"):
        assert main([command, "llama"]) == 7
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[:2] == [
        "error: no memory program for this architecture",
        '  pip install "vramplan[train]"',
    ]


def test_the_recommended_command_can_be_pasted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.device = make_device(free_bytes=12 * GIB)
    main(["recommend", "a model", "--micro-batch", "2", "--rank", "8", "--reserve", "0", "--json"])
    first = json.loads(capsys.readouterr().out)["ranked"][0]
    main(["recommend", "a model", "--micro-batch", "2", "--rank", "8", "--reserve", "0"])
    words = " ".join(capsys.readouterr().out.split()).partition("freeze it: ")[2]
    assert main([*shlex.split(words)[1:], "-o", "p.json"]) == 0
    assert read_plan(Path("p.json")).setup.model_dump(mode="json") == first["setup"]


def test_nothing_fits_says_so_and_what_would(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.device = make_cpu(free_bytes=GIB)
    assert main(["recommend", "llama"]) == 1
    out = capsys.readouterr().out
    assert "nothing fits" in out
    assert "a device with 10 GiB free" in out


def test_a_plan_holds_the_data_and_the_recipe_and_writes_beside_itself(world: World, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n\n{"text": "b"}\n')
    arguments = ["--data", "train.jsonl", "--learning-rate", "1e-3", "--seed", "7", "-o", "here/plan.json"]
    assert main(["plan", "llama", *arguments]) == 0
    plan = read_plan(tmp_path / "here" / "plan.json")
    assert plan.data is not None
    # printf '{"text": "a"}\n\n{"text": "b"}\n' | sha256sum
    assert plan.data.sha256 == "b4a4c96e719bcb795fd86a5dd492c0d816c22346416adaec20b610ef665f723a"
    assert plan.workload.num_examples == 2
    assert (plan.recipe.learning_rate, plan.recipe.seed, plan.recipe.output_dir) == (1e-3, 7, "here/model")


def test_a_plan_is_not_overwritten_and_a_setup_that_cannot_run_is_not_planned(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "llama", "-o", "plan.json"]) == 0
    before = Path("plan.json").read_bytes()
    assert main(["plan", "llama", "-o", "plan.json", "--rank", "4"]) == 2
    assert Path("plan.json").read_bytes() == before
    assert main(["plan", "llama", "-o", "plan.json", "--rank", "4", "--force"]) == 0
    world.runnable = False
    assert main(["plan", "llama", "-o", "other.json", "--loop", "trainer"]) == 2
    assert "our executor runs trl's trainer only" in capsys.readouterr().err
    assert not Path("other.json").exists()


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot read"), ("", "holds no rows"), ("a,b\n1,2\n", "row 1: not JSON")]
)
def test_unusable_data_is_a_usage_error(
    content: str | None, words: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path("data.jsonl").write_text(content)
    assert main(["plan", "llama", "--data", "data.jsonl"]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message", "remedy"),
    [
        ("estimat llama", "no command 'estimat'", "did you mean: vramplan estimate"),
        ("estimate llama --rnak 8", "no such option: --rnak 8", "did you mean --rank?"),
        ("estimate llama --optim adam_8bit", "'adam_8bit' is not known; did you mean adamw_8bit?", "--help"),
        ("estimate llama --rank many", "'many' is not a whole number", "--help"),
        ("estimate llama --rank -4 --method lora", "--rank -4 is not possible", "at least 1"),
        ("estimate llama --memory lots", "'lots' is not a size", "--help"),
        ("estimate llama --valid-labels nan", "'nan' is not a number", "--help"),
        ("estimate", "the following arguments are required: MODEL", "vramplan estimate --help"),
        ("estimate llama more", "no such argument here: more", "--help"),
        ("recommend llama --method two-stage", "--method two-stage is two setups", "vramplan plan takes both"),
        ("estimate llama --method full --quant nf4", "quantised weights cannot be trained", "--method qlora"),
        ("--wat", "no such option: --wat", "vramplan --help"),
    ],
)
def test_a_mistake_ends_with_2_one_line_and_a_remedy(
    command: str, message: str, remedy: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(command)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = captured.err.splitlines()
    assert message in first
    assert remedy in second


@pytest.mark.parametrize(
    ("spelling", "option"),
    [
        ("--r 8", "rank"),
        ("--lora-alpha 8", "alpha"),
        ("--lora_alpha 8", "alpha"),
        ("--target-modules q_proj", "target"),
        ("--optim sgd", "optimizer"),
        ("--max-length 64", "sequence_length"),
        ("--per-device-train-batch-size 2", "micro_batch"),
        ("--per_device_train_batch_size 2", "micro_batch"),
    ],
)
def test_the_spellings_of_trainer_and_peft_are_understood(
    spelling: str, option: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", "llama", "--method", "lora", "--json", *spelling.split()]) == 0
    options = {row["name"]: row["origin"] for row in json.loads(capsys.readouterr().out)["options"]}
    assert options[option] == "given"


def test_an_option_is_never_guessed_from_its_first_letters(world: World) -> None:
    assert main(["estimate", "llama", "--seq", "512"]) == 2


def test_ctrl_c_ends_with_130(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(subjects, "look_up", interrupted)
    assert main(["estimate", "llama"]) == 130


def test_another_part_of_the_program_can_add_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    extra = Command("again", "vramplan.planner.cli.explain", "what explain does")
    assert run_command(["--help"], [extra]) == 0
    assert "vramplan again" in capsys.readouterr().out
    assert "vramplan.executor.cli" in command_modules()


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan(make_plan(), path)
    code = "import sys; from vramplan.planner.cli.main import main; sys.exit(main(sys.argv[1:]))"
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, "explain", str(path)], stdout=write_end, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_device_whose_kernels_nobody_knows_gets_figures_and_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    import vramplan.planner.estimate as planner_estimate

    mps = make_device(kind="mps", name="Apple M2 Ultra")
    monkeypatch.setattr(planner_estimate, "estimate", lambda *args, **named: make_candidate(device=args[3]))
    subject = subjects.Subject(make_model_spec(), mps, "", True, None)
    candidate = subjects.price(subject, resolve({}, subject.model, mps))
    assert candidate.device == mps
    assert (candidate.verdict, candidate.headroom_bytes) == (None, None)
    assert "Apple M2 Ultra is not known" in candidate.verdict_reason
