"""A model's folder that brings code or a pickle: neither is run, whatever config.json asks for."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.executor.factories import make_plan, make_setup, make_tiny_llama
from vramplan.executor.load import load_base, load_tokenizer
from vramplan.planner.errors import ModelMissingError

pytest.importorskip("torch")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

CODE = "from pathlib import Path\nPath({!r}).write_text('it ran')\nclass Config: ...\nclass Model: ...\n"


class _Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def _edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_code_in_a_models_folder_is_never_run(tmp_path: Path) -> None:
    folder, ran = make_tiny_llama(tmp_path / "model"), tmp_path / "it ran"
    (folder / "code.py").write_text(CODE.format(str(ran)))
    (folder / "torch.py").write_text(CODE.format(str(ran)))
    models = dict.fromkeys(("AutoModel", "AutoModelForCausalLM"), "code.Model")
    _edited(folder / "config.json", auto_map={"AutoConfig": "code.Config", **models})
    _edited(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Config", "code.Config"]})
    plan = make_plan(tmp_path, model_path=folder)
    load_tokenizer(plan.model)
    base = load_base(plan.model, make_setup(), device_map={"": "cpu"})
    assert type(base).__name__ == "LlamaForCausalLM"
    assert not ran.exists()


def test_weights_that_are_a_pickle_are_never_loaded(tmp_path: Path) -> None:
    folder, ran = make_tiny_llama(tmp_path / "model"), tmp_path / "it ran"
    plan = make_plan(tmp_path, model_path=folder)
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.ckpt.index", "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(_Runs(ran)))
    with pytest.raises(ModelMissingError, match="cannot load"):
        load_base(plan.model, make_setup(), device_map={"": "cpu"})
    assert not ran.exists()
