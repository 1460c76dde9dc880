"""A memory program small enough to replay by hand."""

from vramplan.planner.programs.key import Mode, ProgramKey, Structure
from vramplan.planner.programs.program import Accumulate, Alloc, Anchor, Block, Free, Program, Ref, Size

KIND = "full_attention"
KEY = ProgramKey(
    structure=Structure(
        model_type="llama",
        fields={},
        kinds=(KIND,) * 4,
        heads="mha",
        aligned_heads=True,
        single_row=False,
        windowed=False,
    ),
    mode=Mode(route="cuda", method="full"),
)


def hand_written() -> Program:
    """Embed: a mask. Forward, each layer: an activation kept, a temporary. Head: logits. Backward, last layer first:
    a temporary, a gradient; the activation of the layer goes; the first layer also lets go of the mask.

    With B=2, S=3, h=4: activation 2BSh = 48, temporary BSh = 24, mask S*S = 9, logits 100, gradient 4h = 16.
    """
    sizes = (
        Size(2, ("B", "S", "h")),
        Size(1, ("B", "S", "h")),
        Size(1, ("S", "S")),
        Size(100),
        Size(4, ("h",)),
    )
    forward, backward = "forward.layer", "backward.layer"
    here = Ref(forward, 0, 0)
    templates = (
        (Alloc(2, "activations", 2),),
        (Alloc(0, "activations", 0), Alloc(1, "temporaries", 1), Free(Ref(forward, 0, 1))),
        (Alloc(3, "loss", 3),),
        (Free(Ref("forward.head", None, 0)),),
        (
            Alloc(1, "temporaries", 1),
            Alloc(4, "gradients", 4),
            Free(here),
            Free(Ref(backward, 0, 0)),
            Accumulate(Ref(backward, 0, 1)),
        ),
        (
            Alloc(4, "gradients", 4),
            Free(here),
            Accumulate(Ref(backward, 0, 0)),
            Free(Ref("forward.embed", None, 0)),
        ),
    )
    first, last = Anchor(False, 0), Anchor(True, 0)
    inner, start = (f"{KIND} {KIND} {KIND}", f"{KIND} {KIND} $"), f"^ {KIND} {KIND}"
    return Program(
        key=KEY,
        versions={"torch": "2.13.0"},
        radius=1,
        sizes=sizes,
        labels=(
            "mlp|aten.mm|(B, S, h)",
            "mlp|aten.silu|(B, S, h)",
            "model|aten.triu|(S, S)",
            "lm_head|aten.mm|(100)",
            "|aten.mm|(h)",
        ),
        templates=templates,
        blocks=(
            Block("forward.embed", (("", 0),)),
            Block("forward.layer", tuple((around, 1) for around in (start, *inner)), first, last, 1),
            Block("forward.head", (("", 2),)),
            Block("backward.head", (("", 3),)),
            Block("backward.layer", (*((around, 4) for around in inner), (start, 5)), last, first, -1),
        ),
    )
