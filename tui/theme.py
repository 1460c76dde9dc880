"""The look of numbers: a glyph and an Okabe-Ito colour per budget component, a word and a colour per verdict.

Colours: Okabe and Ito, "Color Universal Design" (2008). Colour never stands alone: each component has its own
glyph and each verdict its own word.
"""

from vramplan.planner.candidate import Verdict
from vramplan.planner.memory.budget import Component

SKY, ORANGE, PINK, GREEN = "#56B4E9", "#E69F00", "#CC79A7", "#009E73"
YELLOW, VERMILLION, BLUE, GREY = "#F0E442", "#D55E00", "#0072B2", "#999999"

COMPONENTS: dict[Component, tuple[str, str]] = {
    "weights": ("█", SKY),
    "quantization_state": ("▜", BLUE),
    "adapter": ("▓", ORANGE),
    "gradients": ("▒", PINK),
    "optimizer": ("░", GREEN),
    "activations": ("▚", YELLOW),
    "loss": ("▞", VERMILLION),
    "temporaries": ("+", ORANGE),
    "buffers": ("=", SKY),
    "batch": (":", GREY),
    "gathered": ("◆", BLUE),
    "communication": ("◇", VERMILLION),
    "context": ("#", GREY),
    "workspace": ("%", PINK),
    "fragmentation": ("~", GREEN),
    "nccl": ("&", BLUE),
}
"""Component -> (glyph, colour), in the order the bar stacks them."""

UP_TO_GLYPH = "·"
"""Between the estimate and its upper bound."""

VERDICTS: dict[Verdict | None, tuple[str, str]] = {
    "fits": ("fits", GREEN),
    "tight": ("tight", YELLOW),
    "no": ("no", VERMILLION),
    None: ("no verdict", GREY),
}
"""Verdict -> (word, colour)."""
