"""A plan in the words of transformers' Trainer, trl's SFTTrainer and PEFT: what several engines are told alike."""

from typing import Any

from vramplan.planner.methods import Ia3, LnTuning, Lora, Method, Prefix, Prompt, Ptuning, Qlora, quant_of
from vramplan.planner.plan import Plan

SCHEDULERS = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay",
)  # fmt: skip
"""transformers.trainer_utils.SchedulerType, without those that need a metric."""
TORCH_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

TRAINER_FIELDS = {
    "recipe.output_dir": "output_dir",
    "setup.micro_batch_size": "per_device_train_batch_size",
    "setup.gradient_accumulation_steps": "gradient_accumulation_steps",
    "setup.gradient_checkpointing": "gradient_checkpointing",
    "setup.optimizer": "optim",
    "setup.precision.mixed_precision": "bf16, fp16",
    "recipe.learning_rate": "learning_rate",
    "recipe.lr_scheduler_type": "lr_scheduler_type",
    "recipe.warmup_steps": "warmup_steps",
    "recipe.weight_decay": "weight_decay",
    "recipe.max_grad_norm": "max_grad_norm",
    "recipe.num_train_epochs": "num_train_epochs",
    "recipe.max_steps": "max_steps",
    "recipe.seed": "seed, data_seed",
    "recipe.logging_steps": "logging_steps",
    "recipe.report_to": "report_to",
    "recipe.eval_steps": "eval_strategy, eval_steps",
    "recipe.save_steps": "save_strategy, save_steps",
    "recipe.save_total_limit": "save_total_limit",
    "device.kind": "use_cpu",
}
"""Fields that are TrainingArguments', and their names there."""
SFT_FIELDS = TRAINER_FIELDS | {
    "workload.sequence_length": "max_length",
    "setup.packing": "packing",
    "recipe.completion_only": "completion_only_loss",
}
"""Those, and trl's SFTConfig's own."""


def training_arguments(plan: Plan) -> dict[str, Any]:
    """TrainingArguments of a plan, those alone that the plan decides."""
    setup, recipe = plan.setup, plan.recipe
    evaluates = bool(recipe.eval_data and recipe.eval_steps)
    return {
        "output_dir": recipe.output_dir,
        "per_device_train_batch_size": setup.micro_batch_size,
        "per_device_eval_batch_size": setup.micro_batch_size,
        "gradient_accumulation_steps": setup.gradient_accumulation_steps,
        "gradient_checkpointing": setup.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if setup.gradient_checkpointing else None,
        "optim": setup.optimizer,
        "bf16": setup.precision.mixed_precision == "bf16",
        "fp16": setup.precision.mixed_precision == "fp16",
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.lr_scheduler_type,
        "warmup_steps": recipe.warmup_steps,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "num_train_epochs": recipe.num_train_epochs,
        "max_steps": -1 if recipe.max_steps is None else recipe.max_steps,
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "logging_steps": recipe.logging_steps,
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": recipe.eval_steps,
        "save_strategy": "steps" if recipe.save_steps else "no",
        "save_steps": recipe.save_steps or 500,
        "save_total_limit": recipe.save_total_limit,
        "use_cpu": on_cpu(plan),
        "dataloader_pin_memory": not on_cpu(plan),
        "report_to": recipe.report_to,
    }


def sft_arguments(plan: Plan) -> dict[str, Any]:
    """SFTConfig's, ``completion_only_loss`` apart: it depends on the rows."""
    return training_arguments(plan) | {
        "max_length": plan.workload.sequence_length,
        "packing": plan.setup.packing,
    }


def on_cpu(plan: Plan) -> bool:
    """Whether the plan is for the processor."""
    return plan.device is not None and plan.device.kind == "cpu"


def adapter_config(method: Method) -> tuple[str, dict[str, Any]] | None:
    """PEFT's config class of a method and its arguments; None where the base's own parameters train.

    A prompt's ``tokenizer_name_or_path`` is left to the caller, who knows where the tokenizer is.
    """
    task = {"task_type": "CAUSAL_LM"}
    match method:
        case Lora() | Qlora():
            return "LoraConfig", _lora(method) | task
        case Ia3():
            targets = {name: list(getattr(method, name)) for name in ("target_modules", "feedforward_modules")}
            return "IA3Config", targets | task
        case LnTuning():
            return "LNTuningConfig", {"target_modules": list(method.target_modules)} | task
        case Prefix():
            return "PrefixTuningConfig", {"num_virtual_tokens": method.num_virtual_tokens} | task
        case Prompt():
            text = method.prompt_tuning_init_text
            start = {} if text is None else {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": text}
            return "PromptTuningConfig", {"num_virtual_tokens": method.num_virtual_tokens} | start | task
        case Ptuning():
            names = ("num_virtual_tokens", "encoder_reparameterization_type", "encoder_hidden_size")
            return "PromptEncoderConfig", {name: getattr(method, name) for name in names} | task
        case _:
            return None


def compute_dtype(plan: Plan) -> str:
    """What 4-bit matmuls run in: autocast's dtype where there is autocast, else the base's."""
    precision = plan.setup.precision
    return precision.dtype if precision.mixed_precision == "no" else precision.mixed_precision


def quantised(plan: Plan) -> bool:
    """Whether the base is quantised by bitsandbytes."""
    return quant_of(plan.setup.method) is not None


def _lora(method: Lora | Qlora) -> dict[str, Any]:
    targets = method.target_modules
    return {
        "r": method.r,
        "lora_alpha": method.lora_alpha,
        "lora_dropout": method.lora_dropout,
        "target_modules": targets if isinstance(targets, str) else list(targets),
        "use_rslora": method.use_rslora,
        "use_dora": method.use_dora,
        "modules_to_save": list(method.modules_to_save) or None,
        "trainable_token_indices": list(method.trainable_token_indices) or None,
        "init_lora_weights": True if method.init_lora_weights == "default" else method.init_lora_weights,
        "bias": "none",
    }
