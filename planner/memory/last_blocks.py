"""The blocks that a step runs through last: what a light full pass trains, the rest of the base frozen.

A block is one layer of a decoder or an encoder; of two stacks the decoder's come last. Embeddings, the final norm and
the output head are in no block.
"""

from vramplan.planner.errors import NoProgramError, UsageError
from vramplan.planner.memory.stack import running_stacks
from vramplan.planner.methods import Method, trainable_blocks
from vramplan.planner.model_spec import ModelSpec, Weight
from vramplan.planner.tasks import is_classification_head


def stack_depths(model: ModelSpec) -> dict[str, int]:
    """Layers of each stack a step runs through, in order, by its name in the model.

    Raises:
        NoProgramError: the weights show no repeated layers.
    """
    depths: dict[str, int] = {}
    for weight in model.weights:
        if weight.layers:
            stack = stack_of(weight)
            depths[stack] = max(depths.get(stack, 0), 1 + max(weight.layers))
    running = running_stacks(depths)
    if not running:
        raise NoProgramError(f"{model.repo_id}: no repeated layers were found in its weights")
    return {stack: depths[stack] for stack in running}


def stack_of(weight: Weight) -> str:
    """The list of layers a weight is in, by name."""
    return weight.name.partition(".{layer}")[0]


def check_blocks(model: ModelSpec, blocks: int) -> None:
    """The model has so many blocks.

    Raises:
        UsageError: it has fewer.
    """
    name, depth = list(stack_depths(model).items())[-1]
    if blocks > depth:
        raise UsageError(
            f"--trainable-blocks {blocks}: {model.repo_id} has {depth} blocks ({name})",
            remedy=f"use --trainable-blocks {depth} or fewer, or --method full without it to train everything",
        )


def trained_count(weight: Weight, model: ModelSpec, method: Method) -> int:
    """Of the tensors a weight stands for, how many are in the last blocks, or of a classifier's head."""
    if trainable_blocks(method) is None or is_classification_head(weight.name):
        return weight.count
    return len(last_layers(weight, model, method))


def last_layers(weight: Weight, model: ModelSpec, method: Method) -> tuple[int, ...]:
    """Those of a weight's layers that are among the last blocks; all of them where the method knows none."""
    blocks = trainable_blocks(method)
    if blocks is None:
        return weight.layers
    name, depth = list(stack_depths(model).items())[-1]
    return tuple(layer for layer in weight.layers if layer >= depth - blocks) if stack_of(weight) == name else ()
