"""Which task a model's class is for, and what each task makes of a model.

    causal-lm        the class AutoModelForCausalLM loads, else AutoModelForImageTextToText's: trl's SFTTrainer
    classification   AutoModelForSequenceClassification: transformers' Trainer, the model's own loss
    seq2seq          AutoModelForSeq2SeqLM: transformers' Seq2SeqTrainer

A model with a vision or audio tower is trained on text: the tower is loaded and held, and never run.
"""

from functools import lru_cache

from vramplan.planner.dims import language_config
from vramplan.planner.errors import NoProgramError, UnsupportedError
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.workload import Task

CLASSIFIER = "ForSequenceClassification"
_GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_OTHER_SENSES = {"whisper": "speech", "vit": "images"}
"""Types that take something else than text, and what."""

DEFAULT_NUM_LABELS = 2
"""transformers' PreTrainedConfig.num_labels."""
DEFAULT_TARGET_LENGTH = 128
"""Decoder tokens where nobody said: the max_target_length of transformers' summarisation and translation examples."""

HEAD_NAMES = ("classifier", "score")
"""Endings of the modules PEFT trains whole in a classifier (peft/peft_model.py, PeftModelForSequenceClassification)."""
TOKEN_TYPED = frozenset(
    (
        "albert",
        "bert",
        "big_bird",
        "convbert",
        "deberta",
        "deberta-v2",
        "electra",
        "ernie",
        "fnet",
        "funnel",
        "megatron-bert",
        "mobilebert",
        "nezha",
        "nomic_bert",
        "rembert",
        "roformer",
        "squeezebert",
        "xlnet",
    )
)
"""Types whose tokenizer also sends token_type_ids (its model_input_names)."""
NO_CHECKPOINTING = frozenset(
    (
        "albert",
        "cpmant",
        "ctrl",
        "flaubert",
        "fsmt",
        "funnel",
        "gpt_neox_japanese",
        "ibert",
        "jetmoe",
        "markuplm",
        "mpnet",
        "openai-gpt",
        "perceiver",
        "reformer",
        "squeezebert",
        "xlm",
        "xlnet",
    )
)
"""Types whose classes have supports_gradient_checkpointing unset (transformers 5.23)."""
NO_FUSED_HEAD = frozenset(("Llama4ForCausalLM", "Llama4ForConditionalGeneration", "MllamaForCausalLM"))
"""Classes without a module of their base_model_prefix, in which trl's fused head takes the whole for its base model and
finds no last_hidden_state (transformers 5.23; trl/trainer/utils.py, add_fused_lm_head)."""
TOWERS = ("vision", "visual", "image", "audio", "multi_modal", "multimodal", "embed_vision", "embed_audio", "connector")
"""What the modules of towers, and of what joins them to the language model, have in their names."""


def task_of(model: ModelSpec) -> Task | None:
    """The task of a model's class; None: the bare model, or one of another task.

    Raises:
        UnsupportedError: the model reads no text, or skips layers of it.
    """
    if model.model_type in _OTHER_SENSES:
        raise UnsupportedError(
            f"{model.repo_id} reads {_OTHER_SENSES[model.model_type]}, and only training on text is priced",
            remedy="choose a language model: vramplan models",
        )
    crossing = language_config(model.config).get("cross_attention_layers")
    if crossing:
        raise UnsupportedError(
            f"{model.repo_id} skips {len(crossing)} of its layers on text, those that attend to an image: what trains "
            "in them would have no gradient, and only training on text is priced",
            remedy="choose a language model: vramplan models",
        )
    if model.architecture.endswith(CLASSIFIER):
        return "classification"
    if model.architecture.endswith(_GENERATES):
        return "seq2seq" if model.config.get("is_encoder_decoder") else "causal-lm"
    return None


def default_task(model: ModelSpec) -> Task:
    """The task a model is trained for when nobody said: a bare encoder gets a classification head."""
    return task_of(model) or "classification"


def check_task(model: ModelSpec, task: Task) -> None:
    """The model is of the task's class.

    Raises:
        NoProgramError: it is not.
    """
    if task_of(model) != task:
        raise NoProgramError(
            f"{model.repo_id} is a {model.architecture}, which is not trained for {task}",
            remedy=f"--task {default_task(model)}",
        )


def is_classification_head(name: str) -> bool:
    """Whether a weight belongs to the head PEFT trains beside the adapters: ``classifier``, ``score``, and DistilBERT's
    ``pre_classifier``.

    >>> is_classification_head("classifier.dense.weight"), is_classification_head("bert.pooler.dense.weight")
    (True, False)
    """
    return name.partition(".")[0].endswith(HEAD_NAMES)


@lru_cache(maxsize=4096)  # asked for every weight of every setup in a search
def in_tower(name: str) -> bool:
    """Whether a module or weight belongs to a vision or audio tower, or joins one to the language model.

    >>> in_tower("model.vision_tower.encoder.layers.{layer}.mlp.fc1"), in_tower("model.language_model.norm.weight")
    (True, False)
    """
    return any(tower in part for part in name.split(".") for tower in TOWERS)
