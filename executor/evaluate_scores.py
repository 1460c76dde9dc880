"""Losses of a base and of what training made of it, on the same rows, one row at a time: nothing is padded."""

import gc
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from vramplan.executor import data
from vramplan.executor.evaluate_rows import encode, held_out
from vramplan.executor.evaluate_wire import EvaluateRequest, Evaluation, Scores, f1_macro
from vramplan.executor.finished_model import load_for_use, load_tuned, tokenizer_of, use_device
from vramplan.executor.torch_dtypes import torch_dtype
from vramplan.planner.errors import BadDataError
from vramplan.planner.methods import trains_base
from vramplan.planner.plan import Plan
from vramplan.planner.rows import Rows

CHUNK = 1024
"""Tokens whose logits are upcast at once."""
MOST_PERPLEXING = 700.0
"""exp of more does not fit a double."""


def evaluate(request: EvaluateRequest, say: Callable[[str], None]) -> Evaluation:
    """Score both models.

    Raises:
        BadDataError: there are no held-out rows, or none has a token to predict.
        ModelMissingError: the base is not where the plan says.
        RunError: the adapter does not fit it.
    """
    plan = request.run.plan()
    rows = held_out(plan, request.data)
    tokenizer, device = tokenizer_of(request.run, plan), use_device()
    score = _scorer(plan, rows, tokenizer, device)
    found = {}
    for name, model in _models(request, plan, tokenizer, device, say):
        say(f"evaluating the {name} model on {len(rows.rows)} rows")
        with torch.inference_mode(), _autocast(plan, device):
            found[name] = score(model)
    labels = [row["label"] for row in rows.rows] if plan.workload.task == "classification" else []
    new_head = "a base whose checkpoint has no classification head has a new, random one" if labels else None
    return Evaluation(
        run=request.run.name,
        plan_fingerprint=plan.fingerprint,
        evaluated_at=datetime.now(UTC),
        data=rows.path,
        device=device,
        base=found["base"],
        tuned=found["tuned"],
        most_frequent_share=max(Counter(labels).values()) / len(labels) if labels else None,
        note=new_head,
    )


def _models(
    request: EvaluateRequest, plan: Plan, tokenizer: Any, device: str, say: Callable[[str], None]
) -> Iterator[tuple[str, Any]]:
    """The base, then the tuned model; of a run that trained every weight only one is in memory at a time."""
    torch.manual_seed(plan.recipe.seed)
    say(f"loading {plan.model.repo_id}")
    if trains_base(plan.setup.method):
        model = _with_pad(load_for_use(plan, device=device), tokenizer)
        yield "base", model
        del model
        gc.collect()
        if device != "cpu":
            torch.cuda.empty_cache()
        say(f"loading {request.run.result}")
        yield "tuned", _with_pad(load_tuned(request.run, plan, device=device), tokenizer)
        return
    model = _with_pad(load_tuned(request.run, plan, device=device), tokenizer)
    with model.disable_adapter():
        yield "base", model
    yield "tuned", model


def _with_pad(model: Any, tokenizer: Any) -> Any:
    """A decoder that classifies finds the last token that counts by it."""
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return model


def _autocast(plan: Plan, device: str) -> AbstractContextManager[Any]:
    """Under autocast where training was."""
    mixed = plan.setup.precision.mixed_precision
    return nullcontext() if mixed == "no" else torch.autocast(device.partition(":")[0], torch_dtype(mixed))


def _scorer(plan: Plan, rows: Rows, tokenizer: Any, device: str) -> Callable[[Any], Scores]:
    """What scores a model on the rows, which are tokenised once.

    Raises:
        BadDataError: no row has a token to predict.
    """
    if plan.workload.task == "causal-lm":
        data.check_chat_template(rows, tokenizer, plan.model.repo_id)
        encoded: list[Any] = encode(rows, tokenizer, plan)
        score = _language_model
    else:
        labels = plan.data.labels if plan.data is not None else ()
        made = data.tokenised(rows, tokenizer, plan.workload, labels=labels, model_type=plan.model.model_type)
        encoded = made.to_list()
        score = _classifier if plan.workload.task == "classification" else _encoder_decoder
    if not encoded:
        raise BadDataError(
            f"no row of {rows.path} has a token to predict within {plan.workload.sequence_length} tokens",
            remedy="give rows with shorter prompts: --data FILE",
        )
    return lambda model: score(model, encoded, device)


def _language_model(model: Any, rows: list[Any], device: str) -> Scores:
    total, tokens = 0.0, 0
    for row in rows:
        ids = torch.tensor([row.ids], device=device)
        # virtual tokens come first, and have logits of their own
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(row.ids) :]
        targets, predicted = ids[0, row.first :], logits[row.first - 1 : -1]
        for part, wanted in zip(predicted.split(CHUNK), targets.split(CHUNK), strict=True):
            total += cross_entropy(part.float(), wanted, reduction="sum").item()
        tokens += len(targets)
    return _perplexed(len(rows), total, tokens)


def _encoder_decoder(model: Any, rows: list[Any], device: str) -> Scores:
    total, tokens = 0.0, 0
    for row in rows:
        inputs = {name: torch.tensor([ids], device=device) for name, ids in row.items()}
        logits, wanted = model(**inputs).logits[0], inputs["labels"][0]
        total += cross_entropy(logits.float(), wanted, reduction="sum").item()
        tokens += len(wanted)
    return _perplexed(len(rows), total, tokens)


def _classifier(model: Any, rows: list[Any], device: str) -> Scores:
    total, given, truth = 0.0, list[int](), [int(row["label"]) for row in rows]
    for row, label in zip(rows, truth, strict=True):
        inputs = {name: torch.tensor([ids], device=device) for name, ids in row.items() if name != "label"}
        logits = model(**inputs).logits.float()
        total += cross_entropy(logits, torch.tensor([label], device=device)).item()
        given.append(int(logits.argmax()))
    hits = sum(a == b for a, b in zip(truth, given, strict=True))
    return Scores(rows=len(rows), loss=total / len(rows), accuracy=hits / len(rows), macro_f1=f1_macro(truth, given))


def _perplexed(rows: int, total: float, tokens: int) -> Scores:
    loss = total / tokens
    perplexity = math.exp(loss) if loss < MOST_PERPLEXING else None
    return Scores(rows=rows, tokens=tokens, loss=loss, perplexity=perplexity)


def carry_out(request: str, say: Callable[[str], None]) -> str:
    """Evaluate and write what was found; where it lies.

    Args:
        request: an ``EvaluateRequest`` as JSON.
    """
    asked = EvaluateRequest.model_validate_json(request)
    found, place = evaluate(asked, say), Path(asked.output)
    written = place.with_name(f".{place.name}")
    written.write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
    written.replace(place)
    return asked.output
