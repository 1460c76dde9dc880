"""Which linears an adapter sits on, and a clear answer when a name matches none.

PEFT matches a target to a module whose dotted name equals it or ends with a dot and it
(peft/tuners/tuners_utils.py, check_target_module_exists).
"""

from difflib import get_close_matches

from vramplan.planner.errors import UsageError
from vramplan.planner.methods import Targets
from vramplan.planner.model_spec import ModelSpec, Weight

HEAD = "lm_head"


def check_targets(targets: Targets, model: ModelSpec, *, embeddings: bool = True) -> None:
    """Check that every named target is a linear of the model that an adapter may sit on, or an embedding.

    Args:
        embeddings: the method has adapters for them.

    Raises:
        UsageError: a name matches no module, only modules that are not linear, or the output head.
    """
    if targets == "all-linear":
        return
    if not targets or any(not name.strip() for name in targets):
        raise UsageError("--target names no module", remedy="use --target all-linear, or names such as q_proj,v_proj")
    modules = {weight.name.rpartition(".")[0]: weight.module for weight in model.weights}
    linears = {weight.name.rpartition(".")[0] for weight in model.weights if _is_linear(weight)}
    names = sorted({name.rpartition(".")[2] for name in linears} - {HEAD})
    tables = {weight.name.rpartition(".")[0] for weight in model.weights if weight.module == "embedding"}
    adaptable = linears | tables if embeddings else linears
    for target in targets:
        if target == HEAD:
            raise UsageError(
                "--target lm_head: trl computes the loss from the head's own weight, so its adapter would never train",
                remedy="leave lm_head out of --target",
            )
        matched = [name for name in modules if name == target or name.endswith(f".{target}")]
        if adaptable.intersection(matched):
            continue
        if matched:
            what, nearest = f"is not a linear layer of {model.repo_id} but {modules[matched[0]]}", names
        else:
            what, nearest = f"matches no module of {model.repo_id}", get_close_matches(target, names, n=1) or names
        raise UsageError(f"--target {target} {what}", remedy=f"did you mean {', '.join(nearest)}?")


def _is_linear(weight: Weight) -> bool:
    """A torch.nn.Linear, a class derived from it, or GPT-2's Conv1D, told from a convolution by its two dimensions."""
    return weight.module in ("linear", "linear_subclass") or (weight.module == "conv" and len(weight.shape) == 2)
