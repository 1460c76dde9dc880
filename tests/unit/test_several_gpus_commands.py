"""Commands over several GPUs, with the real prices."""

import json
import re
from typing import Any

import pytest

from vramplan.planner.cli.main import run_command

SMALL = "Qwen/Qwen2.5-0.5B"
LARGE = "meta-llama/Llama-3.1-8B"


def answered(capsys: pytest.CaptureFixture[str], *command: str) -> tuple[int, Any]:
    code = run_command([*command, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_how_many_gpus_are_enough_is_the_first_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    # 8.03 B x 8 bytes (bf16, and moments of it) are 60 GiB on one card of 39; sharded, with fp32 masters, 16 bytes over
    # two are 60 each, over eight 15.
    options = ["--method", "full", "--device", "A100 SXM4 40 GB", "--sharding", "fsdp", "--solve", "gpus"]
    code, found = answered(capsys, "estimate", LARGE, *options)
    verdicts = {each["gpus"]: each["estimate"]["verdict"] for each in found["gains"]}
    assert (code, verdicts[1], verdicts[2], verdicts[8]) == (0, "no", "no", "fits")
    peaks = {each["gpus"]: each["estimate"]["peak_allocated_bytes"] for each in found["gains"]}
    assert peaks[2] > peaks[4] > peaks[8]


def test_a_row_for_each_number_of_gpus_says_what_it_gains(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--method", "lora", "--device", "RTX 4090", "--price", "0.4"]
    assert run_command(["estimate", SMALL, *options, "--solve", "gpus"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^ +(\d+) +(?:ddp|fsdp)? +\d", out, re.MULTILINE) == ["1", "2", "4", "8"]
    assert "of 2" in out
    assert "basis: times are" in out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--gpus", "2", "--method", "lora"], "which is given"),
        ([], "needs a method"),
        (["--method", "lora", "--device", "cpu"], "needs a GPU"),
    ],
)
def test_what_solving_for_gpus_needs_is_said(capsys: pytest.CaptureFixture[str], given: list[str], words: str) -> None:
    device = [] if "--device" in given else ["--device", "RTX 4090"]
    assert run_command(["estimate", SMALL, *given, *device, "--solve", "gpus"]) == 2
    assert words in capsys.readouterr().err


def test_the_recommendation_names_how_the_work_is_shared(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--gpus", "2", "--device", "RTX 4090", "--tokens-per-step", "2048"]
    assert run_command(["recommend", SMALL, *options]) == 0
    out = capsys.readouterr().out
    assert "take     full · ddp" in out
    assert "--gpus 2" in out.partition("freeze it:")[2]


def test_a_layer_of_stage_3_with_a_plain_loss_holds_the_logits_beside_its_gathered_head(
    capsys: pytest.CaptureFixture[str],
) -> None:
    peaks = {}
    for loss in ("fused", "standard"):
        options = ["--method", "full", "--gpus", "2", "--sharding", "zero3", "--loss", loss, "--device", "RTX 4090"]
        phases = answered(capsys, "estimate", SMALL, *options)[1]["phases"]
        peaks[loss] = next(phase["allocated_bytes"] for phase in phases if phase["name"] == "loss")
    # trl's loss never has whole logits: 1,024 tokens x 151,936 words, in fp32 alone.
    assert peaks["standard"] - peaks["fused"] > 1024 * 151_936 * 4
