"""The fine-tuning methods, as one tagged union. Field names are PEFT's; defaults are the design's.

full         every weight trains
lora         W + (alpha / r) B A on chosen linears (Hu et al., 2021, arXiv:2106.09685)
qlora        lora on a base quantised by bitsandbytes (Dettmers et al., 2023, arXiv:2305.14314)
"""

from typing import Annotated, Literal

from pydantic import Field

from vramplan.planner.values import Value

Quant = Literal["nf4", "fp4", "int8"]
Targets = Literal["all-linear"] | tuple[str, ...]


class Full(Value):
    kind: Literal["full"] = "full"


class _LowRank(Value):
    r: int = Field(default=16, ge=1, le=65536)
    lora_alpha: int = Field(default=32, ge=1)
    lora_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    target_modules: Targets = "all-linear"
    use_rslora: bool = False
    use_dora: bool = False


class Lora(_LowRank):
    kind: Literal["lora"] = "lora"


class Qlora(_LowRank):
    kind: Literal["qlora"] = "qlora"
    quant: Quant = "nf4"
    double_quant: bool = True


Method = Annotated[Full | Lora | Qlora, Field(discriminator="kind")]
"""Methods that have a memory program today; a method enters this union when it is both priced and run."""

METHOD_NAMES: tuple[str, ...] = ("full", "lora", "qlora")
