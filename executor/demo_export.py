"""The child process that turns the demo's GGUF weights into an ordinary Hugging Face folder.

    python -P -m vramplan.executor.demo_export GGUF FOLDER

Worker side: imports torch and transformers. Speaks the worker's protocol: Progress lines on stdout, then nothing;
a nonzero exit code is failure, with the reason on stderr. The bytes written are bf16: half of what dequantising gives,
and what the published checkpoint of this model stores.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from vramplan.executor.events import Progress


def export(gguf: Path, folder: Path) -> None:
    """Dequantise ``gguf`` and save model and tokenizer under ``folder`` (safetensors, bf16)."""
    _say("importing PyTorch and transformers")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _say("reading the tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    _say("dequantising the weights")
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    _forget_quantisation(model)
    model = model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    _say("writing the model folder")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _forget_quantisation(model: Any) -> None:
    """transformers 5 refuses to save a model that still names the quantiser it came from, though none is left."""
    model.hf_quantizer = None
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    for name in ("is_quantized", "quantization_method"):
        if name in model.__dict__:
            delattr(model, name)


def _say(what: str) -> None:
    sys.stdout.write(Progress(time=time.time(), what=what).model_dump_json() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything is in the file; nothing may be looked for elsewhere
    export(Path(sys.argv[1]), Path(sys.argv[2]))
