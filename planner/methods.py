"""The fine-tuning methods, as one tagged union. Field names are PEFT's; defaults are the design's.

full         every weight trains, or those of the last blocks alone
layerwise    every weight trains, the lower layers at a smaller learning rate (Howard and Ruder, 2018,
             arXiv:1801.06146), or groups of modules each at its own
bitfit       only bias terms train (Ben Zaken et al., 2022, arXiv:2106.10199)
ln-tuning    only the norms train, as copies beside the frozen ones (Zhao et al., 2023, arXiv:2312.11420)
lora         W + (alpha / r) B A on chosen linears (Hu et al., 2021, arXiv:2106.09685)
qlora        lora on a base quantised by bitsandbytes (Dettmers et al., 2023, arXiv:2305.14314)
adapter      bottlenecks after a layer's output projections (Houlsby et al., 2019, arXiv:1902.00751;
             Pfeiffer et al., 2021, arXiv:2005.00247)
ia3          one learned factor a channel (Liu et al., 2022, arXiv:2205.05638)
prefix       learned keys and values before each layer's (Li and Liang, 2021, arXiv:2101.00190)
prompt       learned embeddings before the input's (Lester et al., 2021, arXiv:2104.08691)
ptuning      the same, made by a small network (Liu et al., 2021, arXiv:2103.10385)
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vramplan.planner.values import Value

Quant = Literal["nf4", "fp4", "int8"]
Targets = Literal["all-linear"] | tuple[str, ...]
AdapterKind = Literal["houlsby", "pfeiffer"]
NonLinearity = Literal["relu", "gelu", "silu", "tanh"]
EncoderType = Literal["MLP", "LSTM"]


class Full(Value):
    kind: Literal["full"] = "full"
    trainable_blocks: int | None = Field(default=None, ge=1)
    """So many of the last blocks train, and a classifier's head with them; None: every weight."""


class LrGroup(Value):
    """Modules with a learning rate of their own."""

    modules: str = Field(min_length=1)
    """The end of their dotted names; a part may be a range of layers, both ends in it: ``layers.0-15``."""
    learning_rate: float = Field(gt=0.0, allow_inf_nan=False)


class Layerwise(Value):
    kind: Literal["layerwise"] = "layerwise"
    lower_layers: int | None = Field(default=6, ge=1)
    """How many of the first layers, embeddings with them, learn at ``lower_learning_rate``."""
    lower_learning_rate: float | None = Field(default=5e-5, gt=0.0)
    lr_groups: tuple[LrGroup, ...] = ()
    """In the place of both, which are None then; what is in none of them learns at the recipe's rate."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        unset = {self.lower_layers is None, self.lower_learning_rate is None}
        if unset != {bool(self.lr_groups)}:
            raise ValueError("either lr_groups, or lower_layers and lower_learning_rate")
        return self


class Bitfit(Value):
    kind: Literal["bitfit"] = "bitfit"


class _LowRank(Value):
    r: int = Field(default=16, ge=1, le=65536)
    lora_alpha: int = Field(default=32, ge=1)
    lora_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    target_modules: Targets = "all-linear"
    use_rslora: bool = False
    use_dora: bool = False
    modules_to_save: tuple[str, ...] = ()
    """Ends of the names of modules that train in full, as copies beside the frozen ones."""
    trainable_token_indices: tuple[int, ...] = ()
    """Rows of the input embeddings that train, where the rest of them is frozen; a tied head shares them."""
    init_lora_weights: str = Field(default="default", pattern=r"^(default|gaussian|pissa(_niter_\d+)?)$")
    """How A and B begin. ``pissa``: from the principal part of each weight, which is taken out of it (Meng et al.,
    2024, arXiv:2404.02948)."""


class Lora(_LowRank):
    kind: Literal["lora"] = "lora"


class Qlora(_LowRank):
    kind: Literal["qlora"] = "qlora"
    quant: Quant = "nf4"
    double_quant: bool = True


class _OnAnyBase(Value):
    """A method whose base may be quantised too."""

    quant: Quant | None = None
    double_quant: bool = True


class LnTuning(_OnAnyBase):
    kind: Literal["ln-tuning"] = "ln-tuning"
    target_modules: tuple[str, ...]
    """Ends of the names of the norms."""


class Bottleneck(_OnAnyBase):
    kind: Literal["adapter"] = "adapter"
    adapter_kind: AdapterKind = "houlsby"
    """``houlsby``: after attention and after the MLP. ``pfeiffer``: after the MLP."""
    bottleneck_size: int = Field(default=64, ge=1, le=65536)
    non_linearity: NonLinearity = "gelu"
    target_modules: tuple[str, ...]
    """Ends of the names of the output projections the bottlenecks follow."""


class Ia3(_OnAnyBase):
    kind: Literal["ia3"] = "ia3"
    target_modules: tuple[str, ...]
    feedforward_modules: tuple[str, ...] = ()
    """Those of the targets whose input is scaled, not their output."""


class _VirtualTokens(_OnAnyBase):
    num_virtual_tokens: int = Field(default=20, ge=1, le=65536)


class Prefix(_VirtualTokens):
    kind: Literal["prefix"] = "prefix"


class Prompt(_VirtualTokens):
    kind: Literal["prompt"] = "prompt"
    prompt_tuning_init_text: str | None = None
    """The text whose embeddings the prompt starts from; None: random."""


class Ptuning(_VirtualTokens):
    kind: Literal["ptuning"] = "ptuning"
    encoder_reparameterization_type: EncoderType = "MLP"
    encoder_hidden_size: int = Field(ge=1)
    """PEFT's default is the model's hidden size."""


Method = Annotated[
    Full | Layerwise | Bitfit | LnTuning | Lora | Qlora | Bottleneck | Ia3 | Prefix | Prompt | Ptuning,
    Field(discriminator="kind"),
]
"""Methods that have a memory program today; a method enters this union when it is both priced and run."""

METHOD_NAMES: tuple[str, ...] = ("full", "lora", "qlora")
"""What is recommended from when nobody names a method."""
ESTIMATED_NAMES: tuple[str, ...] = (*METHOD_NAMES, "adapter")
"""What an estimate shows when nobody names a method."""

QUANTIZABLE = ("lora", "qlora", "adapter", "ia3", "ln-tuning", "prefix", "prompt", "ptuning")
"""Methods that leave the base frozen and apart, so that it may be quantised."""
SHARDED_METHODS = (Full, Layerwise, Lora, Qlora)
"""Methods that are priced and run where FSDP2 or ZeRO splits what one GPU would hold."""


def quant_of(method: Method) -> Quant | None:
    """How the base is quantised; None where it is not."""
    quant: Quant | None = getattr(method, "quant", None)
    return quant


def trains_base(method: Method) -> bool:
    """Whether the parameters that train are the base's own, in the base's dtype."""
    return isinstance(method, (Full, Layerwise, Bitfit))


def trainable_blocks(method: Method) -> int | None:
    """How many of the last blocks alone train; None where that is not how it is divided."""
    blocks: int | None = getattr(method, "trainable_blocks", None)
    return blocks


def virtual_tokens(method: Method) -> int:
    """Positions a method puts before each row; a prefix's have keys and values only."""
    return getattr(method, "num_virtual_tokens", 0)


def prepends_rows(method: Method) -> bool:
    """Whether those positions pass through the layers as rows of their own."""
    return isinstance(method, (Prompt, Ptuning))
