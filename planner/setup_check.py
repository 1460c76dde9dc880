"""What only a complete setup shows: options that are each possible and do not go together."""

from vramplan.planner.errors import UnsupportedError, UsageError
from vramplan.planner.training_setup import TrainingRecipe, TrainingSetup


def check_setup(setup: TrainingSetup, recipe: TrainingRecipe) -> None:
    """Refuse what cannot run, or has no price, as a whole.

    Raises:
        UsageError: the attention cannot run in these dtypes.
        UnsupportedError: understood, but not priced yet.
    """
    precision = setup.precision
    if setup.attention == "flash_attention_2" and (precision.dtype, precision.mixed_precision) == ("fp32", "no"):
        raise UsageError(
            "--attention flash_attention_2 in fp32: its kernels take bf16 and fp16 alone",
            remedy="use --dtype bf16, --mixed-precision bf16, or --attention sdpa",
        )
    if setup.packing and setup.loop != "executor":
        raise UsageError(
            f"--packing with --loop {setup.loop}: packing is trl's, and that loop does not have it",
            remedy="leave --packing out, or use --loop executor",
        )
    if setup.loss == "liger" and precision.dtype == "fp32":
        raise UnsupportedError("--loss liger is priced for half-precision weights alone", remedy="--dtype bf16")
    if setup.optimizer == "sgd" and recipe.weight_decay > 0:  # torch.optim.SGD copies the gradients then
        raise UnsupportedError("--optimizer sgd with --weight-decay is not priced yet", remedy="--weight-decay 0")
