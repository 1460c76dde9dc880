"""Evaluation: losses are those of the libraries' own loss on the same tokens, for base and tuned model."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.executor.factories import make_tiny_llama, pin, prompt_completion_rows, write_jsonl
from tests.executor.finished_runs import finish
from tests.executor.task_worlds import COLOURS, make_model, rows_of
from vramplan.executor.evaluate_wire import EvaluateRequest, Evaluation, f1_macro
from vramplan.executor.finished import finished_run
from vramplan.planner.cli.main import run_command
from vramplan.planner.errors import ExitCode
from vramplan.planner.methods import Full, Lora, Prefix, Prompt

pytest.importorskip("torch")
pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("world")
    data = write_jsonl(folder / "train.jsonl", prompt_completion_rows()[:30])
    held_out = write_jsonl(folder / "held.jsonl", prompt_completion_rows()[30:])
    return {"model_path": make_tiny_llama(folder / "model"), "data": pin(data), "eval_data": str(held_out)}


def evaluate_here(folder: Path, data: str | None = None) -> Evaluation:
    """The worker's part of an evaluation, in this process."""
    from vramplan.executor.evaluate_scores import evaluate

    run = finished_run(str(folder)).tuned
    return evaluate(EvaluateRequest(run=run, data=data, output=str(folder / "e.json")), lambda what: None)


def loss_by_transformers(model: Any, tokenizer: Any, rows: list[dict[str, str]]) -> tuple[float, int]:
    """transformers' own loss of a causal language model, row by row, weighted by its tokens."""
    import torch

    total, tokens = 0.0, 0
    for row in rows:
        asked = tokenizer(row["prompt"])["input_ids"]
        ids = tokenizer(row["prompt"] + row["completion"] + tokenizer.eos_token)["input_ids"]
        labels = [-100] * len(asked) + ids[len(asked) :]
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()
        total, tokens = total + loss * (len(ids) - len(asked)), tokens + len(ids) - len(asked)
    return total / tokens, tokens


@pytest.mark.parametrize(
    "method", [Lora(r=8), Prefix(num_virtual_tokens=4), Prompt(num_virtual_tokens=4), Full()], ids=lambda m: m.kind
)
def test_losses_are_those_of_transformers_own_loss(method: Any, world: dict[str, Any], tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finish(tmp_path / "run", method=method, sequence_length=64, **world)
    found = evaluate_here(folder)
    rows, tokenizer = prompt_completion_rows()[30:], AutoTokenizer.from_pretrained(world["model_path"])
    base = AutoModelForCausalLM.from_pretrained(world["model_path"]).eval()
    loss, tokens = loss_by_transformers(base, tokenizer, rows)
    assert (found.base.rows, found.base.tokens) == (10, tokens)
    assert found.base.loss == pytest.approx(loss, rel=1e-5)
    assert found.base.perplexity == pytest.approx(math.exp(loss), rel=1e-4)
    result = folder / "output"
    tuned = (
        AutoModelForCausalLM.from_pretrained(result)
        if isinstance(method, Full)
        else PeftModel.from_pretrained(base, result)
    )
    assert found.tuned.loss == pytest.approx(loss_by_transformers(tuned.eval(), tokenizer, rows)[0], rel=1e-5)
    assert abs(found.tuned.loss - found.base.loss) > 1e-3


@pytest.mark.parametrize("kind", ["prompt-completion", "messages", "text"])
def test_rows_are_the_tokens_trl_trains_on(kind: str, world: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from tests.executor.finished_runs import plan_of
    from vramplan.executor.data import make_dataset
    from vramplan.executor.evaluate_rows import encode
    from vramplan.planner.adapters.datasets import read_rows

    pairs = prompt_completion_rows()[:6]
    turns = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
        for row in pairs
    ]
    texts = [{"text": row["prompt"] + row["completion"]} for row in pairs]
    rows = read_rows(
        write_jsonl(tmp_path / "rows.jsonl", {"prompt-completion": pairs, "messages": turns, "text": texts}[kind]),
        "causal-lm",
    )
    plan = plan_of(tmp_path, world["model_path"], Lora(r=8), sequence_length=24)
    tokenizer = AutoTokenizer.from_pretrained(world["model_path"])
    options = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "max_length": 24, "report_to": "none"}
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(world["model_path"]),
        args=SFTConfig(completion_only_loss=kind != "text", **options),
        train_dataset=make_dataset(rows, completion_only=True),
        processing_class=tokenizer,
    )
    made = list(trainer.train_dataset)
    assert [row.ids for row in encode(rows, tokenizer, plan)] == [row["input_ids"] for row in made]
    learnt = [next(place for place, label in enumerate(row["labels"]) if label != -100) for row in made]
    assert [row.first for row in encode(rows, tokenizer, plan)] == [max(1, first) for first in learnt]


def test_a_classifier_is_scored_by_its_own_predictions(tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model_path = make_model(tmp_path / "model", "bert", "classification")
    data = pin(write_jsonl(tmp_path / "train.jsonl", rows_of("classification", 6)))
    held_out = write_jsonl(tmp_path / "held.jsonl", rows_of("classification", 16))
    folder = finish(
        tmp_path / "run", model_path, Lora(r=8, target_modules=("query", "value")), sequence_length=40,
        data=data.model_copy(update={"labels": COLOURS}), eval_data=str(held_out),
        workload={"task": "classification", "num_labels": 3},
    )  # fmt: skip
    found = evaluate_here(folder)
    base = AutoModelForSequenceClassification.from_pretrained(model_path, num_labels=3)
    tuned = PeftModel.from_pretrained(base, folder / "output").eval()
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    truth = [COLOURS.index(row["label"]) for row in rows_of("classification", 16)]
    losses, given = [], []
    for row, label in zip(rows_of("classification", 16), truth, strict=True):
        inputs = tokenizer(row["text"], return_tensors="pt", truncation=True, max_length=40)
        with torch.no_grad():
            out = tuned(**inputs, labels=torch.tensor([label]))
        losses.append(out.loss.item())
        given.append(int(out.logits.argmax()))
    assert found.tuned.loss == pytest.approx(sum(losses) / 16, rel=1e-5)
    assert found.tuned.accuracy == sum(a == b for a, b in zip(truth, given, strict=True)) / 16
    assert found.tuned.macro_f1 == pytest.approx(f1_macro(truth, given))
    assert (found.tuned.perplexity, found.tuned.tokens) == (None, None)
    assert found.most_frequent_share == 6 / 16


def test_the_command_shows_both_models_and_keeps_what_it_found(
    world: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finish(tmp_path / "run", method=Lora(r=8), sequence_length=64, **world)
    capsys.readouterr()
    assert run_command(["evaluate", str(folder), "--device", "cpu"]) == ExitCode.OK
    out, err = capsys.readouterr()
    kept = Evaluation.model_validate_json((folder / "evaluation.json").read_bytes())
    assert f"{kept.base.loss:.4f}" in out
    assert f"{kept.tuned.loss:.4f}" in out
    assert f"loss {kept.tuned.loss - kept.base.loss:+.4f}" in out
    assert "evaluating the tuned model on 10 rows" in err


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "held nothing out"), ('{"prompt": "a"}\n', "row 1"), ('{"text": "a"', "row 1"), ("", "no rows")],
    ids=["no held-out rows", "a column missing", "not JSON", "empty"],
)
def test_rows_that_are_no_use_are_refused_in_two_lines(
    content: str | None, reason: str, world: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finish(tmp_path / "run", world["model_path"], Lora(r=8), data=world["data"])
    file = tmp_path / "rows.jsonl"
    file.write_text(content or "")
    capsys.readouterr()
    arguments = [] if content is None else ["--data", str(file)]
    assert run_command(["evaluate", str(folder), *arguments, "--json"]) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 2)
    assert reason in err


def test_macro_f1_is_the_mean_over_classes_also_those_nobody_was_given() -> None:
    # by hand: class 0 has 2 of 2 and one wrongly given, 2x2/(2+3); class 1 none of 1; class 2 one of 1, 1
    assert f1_macro([0, 0, 1, 2], [0, 0, 0, 2]) == pytest.approx((4 / 5 + 0 + 1) / 3)


def test_json_of_an_evaluation_is_read_back(tmp_path: Path, world: dict[str, Any]) -> None:
    folder = finish(tmp_path / "run", method=Lora(r=8), **world)
    found = evaluate_here(folder, data=world["data"].path)
    assert found.base.rows == 30
    assert Evaluation.model_validate(json.loads(found.model_dump_json())) == found


@pytest.mark.parametrize(("family", "method"), [("t5", Prompt(num_virtual_tokens=4)), ("bart", Lora(r=8))])
def test_a_targets_loss_is_transformers_own(family: str, method: Any, tmp_path: Path) -> None:
    """Over the targets' tokens, cut at the planned lengths, base and tuned."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model_path = make_model(tmp_path / "model", family, "seq2seq")
    rows = rows_of("seq2seq", 6)
    workload = {"task": "seq2seq", "sequence_length": 24, "target_length": 16}
    folder = finish(
        tmp_path / "run", model_path, method, workload=workload, data=pin(write_jsonl(tmp_path / "d", rows))
    )
    found = evaluate_here(folder, data=str(write_jsonl(tmp_path / "held.jsonl", rows)))
    tokenizer = AutoTokenizer.from_pretrained(model_path)

    def loss(model: Any) -> tuple[float, int]:
        total, tokens = 0.0, 0
        for row in rows:
            ids = torch.tensor([tokenizer(row["input"], truncation=True, max_length=24)["input_ids"]])
            labels = torch.tensor([tokenizer(row["target"], truncation=True, max_length=16)["input_ids"]])
            mask = torch.ones_like(ids)
            with torch.no_grad():
                mean = model(input_ids=ids, attention_mask=mask, labels=labels).loss.item()
            total, tokens = total + mean * labels.numel(), tokens + labels.numel()
        return total / tokens, tokens

    base = AutoModelForSeq2SeqLM.from_pretrained(model_path).eval()
    expected, tokens = loss(base)
    assert (found.base.rows, found.base.tokens) == (6, tokens)
    assert found.base.loss == pytest.approx(expected, rel=1e-5)
    tuned = PeftModel.from_pretrained(base, folder / "output").eval()
    assert found.tuned.loss == pytest.approx(loss(tuned)[0], rel=1e-5)
    assert abs(found.tuned.loss - found.base.loss) > 1e-3
