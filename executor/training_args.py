"""A plan's setup and recipe as a trainer's arguments: every field of both that it reads, and none left to chance."""

from dataclasses import fields
from typing import Any

from vramplan.executor.deepspeed_run import deepspeed_arguments
from vramplan.executor.ranks import PATIENCE
from vramplan.executor.reporting import check_reporting
from vramplan.planner.deepspeed import stage_of
from vramplan.planner.export.ranks import rank_arguments, several
from vramplan.planner.plan import Plan


def training_args(
    plan: Plan,
    *,
    on_cuda: bool,
    completions: bool,
    evaluates: bool,
    evaluates_first: bool = False,
    reports: bool = True,
) -> Any:
    """The ``trl.SFTConfig`` of a plan; of another task than causal LM, transformers' ``TrainingArguments``.

    Of several processes they meet here.

    Args:
        completions: rows have a completion, so loss on it alone is possible.
        evaluates: there is held-out data.
        evaluates_first: inside ``train()``, before its first step.
        reports: to whom the recipe says; verifying steps do not.

    Raises:
        UnsupportedError: the package that writes those reports is not installed.
    """
    import transformers
    from trl import SFTConfig

    setup, recipe, task = plan.setup, plan.recipe, plan.workload.task
    if reports:
        check_reporting(recipe)
    config: Any = {
        "causal-lm": SFTConfig,
        "classification": transformers.TrainingArguments,
        "seq2seq": transformers.Seq2SeqTrainingArguments,
    }[task]
    return config(
        output_dir=recipe.output_dir,
        per_device_train_batch_size=setup.micro_batch_size,
        per_device_eval_batch_size=setup.micro_batch_size,
        gradient_accumulation_steps=setup.gradient_accumulation_steps,
        **_checkpointing(config, setup.gradient_checkpointing),
        optim=setup.optimizer,
        bf16=setup.precision.mixed_precision == "bf16",
        fp16=setup.precision.mixed_precision == "fp16",
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.lr_scheduler_type,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        num_train_epochs=recipe.num_train_epochs,
        max_steps=-1 if recipe.max_steps is None else recipe.max_steps,
        seed=recipe.seed,
        data_seed=recipe.seed,
        logging_steps=recipe.logging_steps,
        eval_strategy="steps" if evaluates and recipe.eval_steps else "no",
        eval_steps=recipe.eval_steps,
        save_strategy="steps" if recipe.save_steps and not stage_of(setup) else "no",
        save_steps=recipe.save_steps or 500,
        save_total_limit=recipe.save_total_limit,
        include_num_input_tokens_seen="non_padding",
        use_cpu=not on_cuda,
        dataloader_pin_memory=on_cuda,
        report_to=recipe.report_to if reports else "none",
        disable_tqdm=True,
        **(_several(plan, evaluates_first) if several(plan) else {}),
        **(_language(plan, completions=completions) if task == "causal-lm" else {"remove_unused_columns": False}),
    )


def _several(plan: Plan, evaluates_first: bool) -> dict[str, Any]:
    told = {"ddp_timeout": int(PATIENCE.total_seconds()), "eval_on_start": evaluates_first}
    return rank_arguments(plan) | deepspeed_arguments(plan) | told


def _language(plan: Plan, *, completions: bool) -> dict[str, Any]:
    """What only trl's trainer has: it tokenises, packs and masks by itself."""
    return {
        "max_length": plan.workload.sequence_length,
        "packing": plan.setup.packing,
        "completion_only_loss": plan.recipe.completion_only and completions,
    }


def _checkpointing(config: Any, on: bool) -> dict[str, Any]:
    """Non-reentrant checkpointing, under the name this version of transformers wants."""
    known = {field.name for field in fields(config)}
    name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    return {name: on, f"{name}_kwargs": {"use_reentrant": False} if on else None}
