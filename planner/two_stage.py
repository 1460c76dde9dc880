"""Two stages as one plan: an adapter on the whole base, merged, then a light full pass over the last blocks.

The first is broad and cheap and leaves the base as it was; the second moves a small part of the merged weights. Each is
a complete setup with a budget of its own: what a second stage takes has nothing to do with what the first took.
"""

from collections.abc import Mapping
from typing import Any

from vramplan.planner.contradictions import check_numbers
from vramplan.planner.errors import UsageError
from vramplan.planner.memory.last_blocks import stack_depths
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.resolve import given_for_method

TWO_STAGE = "two-stage"
SHARE_OF_BLOCKS = 8
"""One block in so many trains in the second stage where nobody says how many."""
_OF_THE_SECOND = {
    "second_learning_rate": "learning_rate",
    "second_epochs": "num_train_epochs",
    "second_max_steps": "max_steps",
}


def stage_wishes(given: Mapping[str, Any], model: ModelSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options a person gave, parted between the two stages.

    LoRA (QLoRA where the base is to be quantised) takes all but the second stage's own. The second takes what is
    meant for both: data, lengths, batch, optimizer, and how long to train where it has no such option of its own; its
    learning rate is full training's unless given.

    Raises:
        UsageError: a number makes no sense, or offload and sharding are asked for, which the second stage has not.
    """
    check_numbers(given)
    if given.get("sharding", "none") not in ("none", "ddp") or given.get("offload", "none") != "none":
        raise UsageError(
            "--method two-stage with sharding is not priced yet: its second stage trains a part of the base",
            remedy="leave --sharding and --offload out",
        )
    own = {"trainable_blocks", "method", *_OF_THE_SECOND}
    shared = {name: value for name, value in given.items() if name not in own and value is not None}
    first = shared | {"method": "qlora" if shared.get("quant") else "lora"}
    blocks = given.get("trainable_blocks")
    if blocks is None:
        depth = list(stack_depths(model).values())[-1]
        blocks = -(-depth // SHARE_OF_BLOCKS)
    second = given_for_method(shared, "full") | {"trainable_blocks": blocks}
    second.pop("learning_rate", None)
    second |= {to: given[name] for name, to in _OF_THE_SECOND.items() if given.get(name) is not None}
    return first, second
