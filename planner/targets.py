"""Which linears an adapter sits on, and a clear answer when a name matches none.

PEFT matches a target to a module whose dotted name equals it or ends with a dot and it
(peft/tuners/tuners_utils.py, check_target_module_exists).
"""

from difflib import get_close_matches

from vramplan.planner.errors import UsageError
from vramplan.planner.methods import Targets
from vramplan.planner.model_spec import ModelSpec


def check_targets(targets: Targets, model: ModelSpec) -> None:
    """Check that every named target is a linear of the model that an adapter may sit on.

    Raises:
        UsageError: a name matches no module, only modules that are not linear, or the output head.
    """
    if targets == "all-linear":
        return
    if not targets or any(not name.strip() for name in targets):
        raise UsageError("--target names no module", remedy="use --target all-linear, or names such as q_proj,v_proj")
    kinds = {weight.name.rpartition(".")[0]: weight.module for weight in model.weights}
    linears = sorted({name.rpartition(".")[2] for name, kind in kinds.items() if kind == "linear"} - {"lm_head"})
    for target in targets:
        matched = [kind for name, kind in kinds.items() if name == target or name.endswith(f".{target}")]
        if target == "lm_head":
            raise UsageError(
                "--target lm_head: trl computes the loss from the head's own weight, so its adapter would never train",
                remedy="leave lm_head out of --target",
            )
        if matched and "linear" in matched:
            continue
        if matched:
            what, nearest = f"is not a linear layer of {model.repo_id} ({matched[0]})", linears
        else:
            what, nearest = f"matches no module of {model.repo_id}", get_close_matches(target, linears, n=1) or linears
        raise UsageError(f"--target {target} {what}", remedy=f"did you mean {', '.join(nearest)}?")
