"""What a model's task changes in a PEFT config: its task type, the head that trains beside the adapters, and the towers
that stay as they are."""

from typing import Any

from torch import nn

from vramplan.planner.tasks import CLASSIFIER, HEAD_NAMES, TOWERS, in_tower
from vramplan.planner.trace.skeleton import find_stacks


def fit_to_task(config: Any, model: nn.Module) -> None:
    """Edit a PEFT config for the model it is put on.

    A classifier's head is copied and the copy trains (peft/peft_model.py, PeftModelForSequenceClassification); it is
    named whole here, or PEFT would put an adapter inside DistilBERT's ``pre_classifier`` and train a copy of both. A
    vision or audio tower never runs on text, so an adapter there would never train.
    """
    if type(model).__name__.endswith(CLASSIFIER):
        config.task_type = "SEQ_CLS"
        heads = [name for name, _ in model.named_children() if name.endswith(HEAD_NAMES)]
        if hasattr(config, "modules_to_save"):
            config.modules_to_save = heads
    elif model.config.is_encoder_decoder:
        config.task_type = "SEQ_2_SEQ_LM"
        _fit_to_decoder(config, model)
    if hasattr(config, "exclude_modules") and any(in_tower(name) for name, _ in model.named_modules()):
        others = [f"(.*\\.)?{name}" for name in config.exclude_modules or ()]
        config.exclude_modules = "|".join([f".*({'|'.join(TOWERS)}).*", *others])


def _fit_to_decoder(config: Any, model: nn.Module) -> None:
    """Virtual tokens of a model with two halves.

    A prompt stands before the encoder's tokens, as in Lester et al. (2021, arXiv:2104.08691). By default PEFT makes as
    many rows again for the decoder and leaves them out of its forward, so they would never train (peft/peft_model.py,
    PeftModelForSeq2SeqLM.forward). A prefix is keys and values of the decoder's layers; PEFT would count the encoder's.
    """
    if config.peft_type in ("PROMPT_TUNING", "P_TUNING"):
        config.num_transformer_submodules = 1
    elif config.peft_type == "PREFIX_TUNING":
        config.num_layers = len(find_stacks(model)[-1])
