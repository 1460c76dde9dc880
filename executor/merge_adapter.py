"""An adapter taken out of its run, ready to be shared: its weights, its config naming the base, the tokenizer."""

import json
import shutil
from pathlib import Path

from vramplan.executor.finished import ADAPTER_CONFIG, ADAPTER_WEIGHTS, FinishedRun
from vramplan.executor.new_folder import new_folder
from vramplan.planner.errors import UnsupportedError

KEPT = (
    ADAPTER_WEIGHTS,
    "chat_template.jinja",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""What a person who loads the adapter needs; checkpoints and pickled training arguments stay behind."""


def export_adapter(run: FinishedRun, output: Path) -> None:
    """Copy the adapter to ``output``, which appears whole or not at all.

    Where the base came from the Hub, the config names it there, at the revision that was trained on, and no path of
    this machine.

    Raises:
        UnsupportedError: the run trained the model's own weights.
        UsageError: something is at ``output`` already.
    """
    if run.whole:
        raise UnsupportedError(
            f"{run.name} trained the model's own weights: there is no adapter",
            remedy=f"its result is a whole model: {run.result}",
        )
    model = run.plan.model
    config = json.loads((run.result / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = model.path or model.repo_id
    config["revision"] = None if model.path else model.revision
    with new_folder(output) as folder:
        for name in KEPT:
            if (run.result / name).is_file():
                shutil.copyfile(run.result / name, folder / name)
        (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
