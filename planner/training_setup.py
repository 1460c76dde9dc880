"""TrainingSetup: everything that decides memory. TrainingRecipe: everything else that decides the result."""

from typing import Literal

from pydantic import Field

from vramplan.planner.dtypes import FloatDtype
from vramplan.planner.methods import Method
from vramplan.planner.values import Value

Optimizer = Literal[
    "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "adafactor", "sgd", "lion_8bit"
]
Attention = Literal["sdpa", "flash_attention_2", "eager"]
Loss = Literal["standard", "fused", "liger"]
Loop = Literal["executor", "trainer", "plain"]
Sharding = Literal["none", "ddp", "fsdp", "zero1", "zero2", "zero3"]
Offload = Literal["none", "optimizer", "all"]
ReportTo = Literal["none", "tensorboard", "wandb"]


class Precision(Value):
    """The three dtypes that decide bytes: the base's weights, autocast, and the adapter's."""

    dtype: FloatDtype = "bf16"
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    adapter_dtype: FloatDtype = "fp32"


class TrainingSetup(Value):
    """How it is trained, as far as memory can tell."""

    method: Method
    precision: Precision = Precision()
    optimizer: Optimizer = "adamw_torch_fused"
    micro_batch_size: int = Field(default=1, ge=1, le=2**20)
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=2**20)
    gradient_checkpointing: bool = True
    attention: Attention = "sdpa"
    loss: Loss = "fused"
    loop: Loop = "executor"
    padding: Literal["none", "right"] = "none"
    """``right``: at least one batch holds pad tokens, so attention gets a mask."""
    packing: bool = False
    kbit_preparation: bool = False
    alloc_conf: str = "expandable_segments:True"
    """PYTORCH_ALLOC_CONF of the run."""
    gpus: int = Field(default=1, ge=1, le=4096)
    """Of each node; one rank each."""
    nodes: int = Field(default=1, ge=1, le=65536)
    sharding: Sharding = "none"
    offload: Offload = "none"

    @property
    def world_size(self) -> int:
        """Ranks altogether."""
        return self.gpus * self.nodes


class TrainingRecipe(Value):
    """What decides the result besides memory. Names and meanings are TrainingArguments'."""

    learning_rate: float = Field(default=2e-4, gt=0.0)
    lr_scheduler_type: str = "linear"
    warmup_steps: float = Field(default=0.0, ge=0.0)
    """Steps, or a fraction of all steps when below 1 (transformers 5)."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    max_grad_norm: float = Field(default=1.0, ge=0.0)
    num_train_epochs: float = Field(default=1.0, gt=0.0)
    max_steps: int | None = Field(default=None, ge=1)
    seed: int = Field(default=42, ge=0)
    logging_steps: int = Field(default=1, ge=1)
    report_to: ReportTo = "none"
    """Who is told the losses beside our own events."""
    eval_steps: int | None = Field(default=None, ge=1)
    save_steps: int | None = Field(default=None, ge=1)
    save_total_limit: int = Field(default=2, ge=1)
    output_dir: str = "runs/run"
    data: str | None = None
    """Path of the training file, or of a folder of them."""
    eval_data: str | None = None
    eval_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the rows that is held out where there is no file for it."""
    columns: dict[str, str] = Field(default_factory=dict)
    """What a column is called in the files, where a person said so."""
    chat_template: str | None = None
    """Path of a jinja template that writes conversations, in place of the tokenizer's own."""
    skip_bad_rows: bool = False
    """Leave rows out that cannot be used, and list them; else the run is refused."""
    completion_only: bool = True
    """Loss on the completion alone, where rows have one."""
