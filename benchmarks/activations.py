"""What a forward keeps and what outputs hold on to, beside a notebook's readings of torch.cuda.memory_allocated.

    python benchmarks/activations.py

AnswerDotAI/fsdp_qlora, nbs/00-profile_lora_qlora*.ipynb (early 2024): one small Llama, its loss ``logits.mean()``. That
loss is not ours, so the loss is left out of both sides: a forward's figure has no softmax, and the logits are fp32, as
that time's models returned them, where today's keep bf16. Writes results/activations.json and a table of README.md.
"""

import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from pricings import pricing_of
from tables import signed_percent, table, write_between

from vramplan.planner.memory.expand import expand
from vramplan.planner.memory.price import Pricing
from vramplan.planner.memory.reserved import CARRIED

HERE = Path(__file__).parent
CASES = HERE / "cases" / "activations.jsonl"
RESULTS = HERE / "results" / "activations.json"
Case = dict[str, Any]
Row = dict[str, Any]
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 4096,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "torch_dtype": "bfloat16",
}
"""The notebooks' LlamaConfig; 4,096 positions, so that 3,072 tokens are allowed."""
FP32_LOGITS = 2 * CONFIG["vocab_size"]  # type: ignore[operator]
"""Bytes a token by which logits in fp32 are more than in bf16."""
OF_THE_LOSS = ("log_softmax", "nll_loss")
GB = 10**9


def load_cases() -> list[Case]:
    """Every reading, in the file's order."""
    return [json.loads(line) for line in CASES.read_text().splitlines()]


def run_case(case: Case, folder: str) -> list[Row]:
    """A reading's rows: what grew since the model was loaded, after the forward and after the backward."""
    if "not_compared" in case:
        return [{"id": case["id"], "not_compared": case["not_compared"]}]
    pricing = pricing_of(folder, *case["command"])
    tokens = pricing.question.workload.sequence_length
    read = case["measured_gb"]
    ours = {"after_forward": _after_forward(pricing), "after_backward": _after_backward(pricing)}
    if case["inference"]:
        ours = {"after_forward": _outputs(pricing)}
    rows = []
    for moment, size in ours.items():
        measured = round((read[moment] - read["after_model"]) * GB)
        predicted = size + FP32_LOGITS * tokens
        error = round(predicted / measured - 1, 5)
        rows.append(
            {
                "id": case["id"],
                "moment": moment,
                "tokens": tokens,
                "measured_bytes": measured,
                "predicted_bytes": predicted,
                "error": error,
            }
        )
    return rows


def _after_forward(pricing: Pricing) -> int:
    """Alive when the backward begins, the loss's own tensors apart."""
    storages, changes, _ = expand(pricing.replay)
    alive = set()
    for change in changes:
        if change < 0:
            alive.discard(~change)
        elif storages[change].segment.startswith("backward"):
            break
        else:
            alive.add(change)
    return sum(
        storages[index].size_bytes
        for index in alive
        if not storages[index].segment.startswith(CARRIED)
        and not any(name in storages[index].label for name in OF_THE_LOSS)
    )


def _outputs(pricing: Pricing) -> int:
    """What the model's outputs hold: logits, and keys and values."""
    held = pricing.budget(with_tensors=False, with_allocator=False).held
    return sum(line.estimate_bytes for line in held if line.component in ("loss", "activations"))


def _after_backward(pricing: Pricing) -> int:
    """Outputs and gradients."""
    held = pricing.budget(with_tensors=False, with_allocator=False).held
    return _outputs(pricing) + sum(line.estimate_bytes for line in held if line.component == "gradients")


def markdown(rows: list[Row]) -> str:
    """The table of README.md, a line for each setup and moment, and why the rest was not compared."""
    groups: dict[tuple[str, str], list[Row]] = {}
    left: dict[tuple[str, str], int] = {}
    for row in rows:
        setup = row["id"].removesuffix("-again").rpartition("-")[0]
        if "not_compared" in row:
            left[setup, row["not_compared"]] = left.get((setup, row["not_compared"]), 0) + 1
        else:
            groups.setdefault((setup, row["moment"].replace("_", " the ")), []).append(row)
    head = ["setup", "grown", "readings", "measured a token", "predicted a token", "median error", "worst error"]
    body = []
    for (setup, moment), own in groups.items():
        errors = [row["error"] for row in own]
        body.append(
            [
                setup,
                moment,
                str(len(own)),
                _each(own, "measured_bytes"),
                _each(own, "predicted_bytes"),
                signed_percent(median(errors)),
                signed_percent(max(errors, key=abs)),
            ]
        )
    why = [[setup, str(count), reason] for (setup, reason), count in left.items()]
    compared = table(head, body, "llrrrrr")
    return f"{compared}\n\nNot compared:\n\n{table(['setup', 'readings', 'why'], why, 'lrl')}"


def _each(rows: list[Row], figure: str) -> str:
    """Bytes for one more token: between 1,024 and 2,048, where the positions of that time's models do not grow."""
    at = {row["tokens"]: row[figure] for row in rows}
    return f"{(at[2048] - at[1024]) / 1024:,.0f} B"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        rows = [row for case in load_cases() for row in run_case(case, folder)]
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    write_between(HERE / "README.md", "activations", markdown(rows))


if __name__ == "__main__":
    main()
