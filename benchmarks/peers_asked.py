"""What other planners are asked: a published run in each one's options, or why it cannot be said in them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.main import build_parser
from vramplan.planner.cli.options import given_options
from vramplan.planner.units import GIB, MIB

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}


class Unasked(Exception):  # noqa: N818 - an outcome
    """A peer has no answer; the message says why."""


@dataclass(frozen=True)
class Setup:
    """A run, in words all of them have."""

    model: str
    method: str
    rank: int | None
    targets: frozenset[str] | None
    """None: every linear."""
    sequence_length: int
    micro_batch: int
    checkpointing: bool
    optimizer: str
    attention: str
    autocast: bool
    card_gib: int
    metric: str


@dataclass(frozen=True)
class Peer:
    """One planner, and how it is asked."""

    package: str
    version: str
    command: str
    figure: str
    """What its figure is, in its own words."""
    arguments: Callable[[Setup], list[str]]
    """Of its command, for JSON; raises Unasked."""
    read: Callable[[dict[str, Any], str], int]
    """Bytes of its answer, for a metric."""
    many: str
    """A program that prints how many answers a second it gives."""
    which: list[str] | None
    """Arguments for the question which setup to take, on a card of 24 GB."""
    what_which_is: str


def setup_of(case: dict[str, Any]) -> Setup:
    """A case's command as a setup."""
    args = build_parser("estimate").parse_all(["estimate", *case["command"]])
    subject = subjects.look_up(args)
    resolved = subjects.complete(subject, given_options(args))
    setup, method = resolved.setup, resolved.setup.method
    kind = "dora" if getattr(method, "use_dora", False) else method.kind
    targets = getattr(method, "target_modules", None)
    assert subject.device is not None
    return Setup(
        model=case["command"][0],
        method=kind,
        rank=getattr(method, "r", None),
        targets=None if targets in (None, "all-linear") else frozenset(targets),
        sequence_length=resolved.workload.sequence_length,
        micro_batch=setup.micro_batch_size,
        checkpointing=setup.gradient_checkpointing,
        optimizer=setup.optimizer,
        attention=setup.attention,
        autocast=setup.precision.mixed_precision != "no",
        card_gib=round(subject.device.total_bytes / GIB),
        metric=case["measured"]["metric"],
    )


def _need(condition: bool, reason: str) -> None:
    if not condition:
        raise Unasked(reason)


def _vramcalc(setup: Setup) -> list[str]:
    _need(setup.method in ("full", "lora"), f"it has no {setup.method}")
    _need(setup.targets is None or setup.targets <= ATTENTION, "its LoRA is on attention alone")
    return [
        *(setup.model, "--train", "--dtype", "bf16", "--batch", str(setup.micro_batch)),
        *("--seq", str(setup.sequence_length), "--optimizer", "adamw"),
        *("--precision", "pure"),  # its amp means weights in fp32
        *("--attn", "flash" if setup.attention == "flash_attention_2" else "sdpa"),
        *(["--grad-checkpoint"] if setup.checkpointing else []),
        *(["--lora", str(setup.rank)] if setup.rank else []),
        "--json",
    ]


def _adapter(setup: Setup, scope: str) -> list[str]:
    """LoRA's rank and which linears it is on, for those who know all of them or attention's."""
    return ["--lora-rank", str(setup.rank or 16), scope, "all_linear" if setup.targets is None else "attention"]


def _canifinetune(setup: Setup) -> list[str]:
    _need(setup.method in ("full", "lora", "qlora"), f"it has no {setup.method}")
    _need(setup.targets is None or setup.targets <= ATTENTION, "it has no such target modules")
    return [
        *("estimate", "--model", setup.model, "--gpu-vram-gb", str(setup.card_gib), "--method", setup.method),
        *("--seq-len", str(setup.sequence_length), "--micro-batch-size", str(setup.micro_batch)),
        *_adapter(setup, "--target-scope"),
        *("--quantization", "nf4_double_quant" if setup.method == "qlora" else "none"),
        *("--optimizer", setup.optimizer, "--attn", setup.attention),
        "--gradient-checkpointing" if setup.checkpointing else "--no-gradient-checkpointing",
        *("--offline", "--json"),
    ]


def _fitcheck(setup: Setup) -> list[str]:
    _need(setup.method in ("full", "lora", "qlora"), f"it has no {setup.method}")
    return [
        *(setup.model, "--precision", "bf16", "--batch-size", str(setup.micro_batch)),
        *("--seq-len", str(setup.sequence_length), "--flash-attn", "--vram-mib", str(1024 * setup.card_gib)),
        *("--optimizer", "adam8bit" if "8bit" in setup.optimizer else "adamw"),
        *(["--optimizer-dtype", "bf16"] if setup.method == "full" and not setup.autocast else []),
        *(["--quant", "nf4", "--double-quant"] if setup.method == "qlora" else []),
        *(["--grad-checkpoint"] if setup.checkpointing else []),
        *(["--no-lora"] if setup.rank is None else ["--lora-r", str(setup.rank), "--lora-targets", _modules(setup)]),
        "--json",
    ]


def _modules(setup: Setup) -> str:
    return "full" if setup.targets is None else ",".join(sorted(setup.targets))


def _ftune(setup: Setup) -> list[str]:
    _need(setup.method in ("full", "lora", "qlora"), f"it has no {setup.method}")
    _need(setup.targets is None or setup.targets <= ATTENTION, "it has no such target modules")
    return [
        *("estimate", "--model", setup.model, "--method", setup.method),
        *("--quantization", "4bit" if setup.method == "qlora" else "none"),
        *("--batch-size", str(setup.micro_batch), "--seq-length", str(setup.sequence_length)),
        *_adapter(setup, "--lora-target"),
        *("--optimizer", "adam_8bit" if "8bit" in setup.optimizer else "adamw"),
        "--grad-ckpt" if setup.checkpointing else "--no-grad-ckpt",
        *("--output", "json"),
    ]


_TIMED = """
import time
def timed(call, number):
    call(1)
    start = time.process_time()
    for index in range(number):
        call(index)
    print(number / (time.process_time() - start))
"""
ASKED = (
    Peer(
        package="vramcalc",
        version="0.1.2",
        command="vramcalc",
        figure="allocated; 0.75 GB are added for what a process holds beside",
        arguments=_vramcalc,
        read=lambda answer, metric: (
            answer["estimate"]["total"] + (answer["estimate"]["overhead"] if metric == "process" else 0)
        ),
        many=f"""{_TIMED}
import vramcalc
config = vramcalc.load_config("meta-llama/Llama-3.1-8B")
timed(lambda index: vramcalc.estimate(config, mode="train", lora_rank=16, seq_len=1024 + 8 * index,
      grad_checkpoint=True).total, 2000)
""",
        which=None,
        what_which_is="has no such question",
    ),
    Peer(
        package="canifinetune",
        version="0.4.1",
        command="canifinetune",
        figure="the process's peak of reserved memory; its safety margin is left out",
        arguments=_canifinetune,
        read=lambda answer, metric: round(
            GIB * (answer["memory"]["total_estimated_gb"] - answer["memory"]["safety_margin_gb"])
        ),
        many=f"""{_TIMED}
from canifinetune.estimator.memory import EstimateRequest, estimate
timed(lambda index: estimate(EstimateRequest(model_id="meta-llama/Llama-3.1-8B", method="lora", quantization="none",
      lora_rank=16, seq_len=1024 + 8 * index, gpu_vram_gb=24, use_network=False)), 200)
""",
        which=["recommend", "--model", "meta-llama/Llama-3.1-8B", "--gpu-vram-gb", "24", "--offline", "--json"],
        what_which_is="its five best of methods, lengths, batches and ranks",
    ),
    Peer(
        package="fitcheck-llm",
        version="0.3.1",
        command="fitcheck",
        figure="what a process holds, context and allocator included",
        arguments=_fitcheck,
        read=lambda answer, metric: round(MIB * answer["memory_mib"]["total"]),
        many=f"""{_TIMED}
import fitcheck
config, gpu = fitcheck.fetch_model_config("meta-llama/Llama-3.1-8B"), fitcheck.get_gpu("4090")
timed(lambda index: fitcheck.estimate(config, fitcheck.TrainingConfig(seq_len=1024 + 8 * index, lora_rank=16,
      grad_checkpoint=True, flash_attn=True), gpu), 2000)
""",
        which=[
            *("advise", "meta-llama/Llama-3.1-8B", "--seq-lens", "1024,2048", "--gpu", "4090"),
            *("--grad-checkpoint", "--flash-attn", "--json"),
        ],
        what_which_is="a sweep of lengths, batches and ranks of one method",
    ),
    Peer(
        package="ftuneai",
        version="0.4.1",
        command="ftune",
        figure="what a card must have, an overhead of a share included",
        arguments=_ftune,
        read=lambda answer, metric: round(GIB * answer["memory"]["total_gb"]),
        many=f"""{_TIMED}
from ftuneai import Estimator
timed(lambda index: Estimator(model="meta-llama/Llama-3.1-8B", method="lora", batch_size=1,
      seq_length=1024 + 8 * index, lora_rank=16, lora_target="all_linear").estimate_memory(), 2000)
""",
        which=["compare", "--model", "meta-llama/Llama-3.1-8B", "--batch-size", "1"],
        what_which_is="full, LoRA and QLoRA side by side",
    ),
)
FEATURES: dict[str, dict[str, tuple[tuple[str, ...], str]]] = {
    "full and LoRA": {
        "vramcalc": (("estimate",), "--lora"),
        "canifinetune": (("estimate",), "full | lora | qlora"),
        "fitcheck-llm": ((), "--no-lora"),
        "ftuneai": (("estimate",), "full, lora, qlora"),
    },
    "QLoRA": {
        "canifinetune": (("estimate",), "qlora"),
        "fitcheck-llm": ((), "--qlora"),
        "ftuneai": (("estimate",), "qlora"),
    },
    "LoRA's target modules by name": {"fitcheck-llm": ((), "comma-")},
    "inference": {"vramcalc": (("estimate",), "--train"), "fitcheck-llm": ((), "fitcheck infer")},
    "several GPUs": {"ftuneai": (("estimate",), "--num-gpus")},
    "hours and money": {"ftuneai": (("estimate",), "costs")},
    "cloud prices": {"ftuneai": ((), "pricing")},
    "measures on your GPU": {"vramcalc": (("bench",), "bench"), "canifinetune": ((), "bench")},
    "learns from measurements": {"canifinetune": ((), "calibrate"), "ftuneai": ((), "validate")},
    "recommends a setup": {"canifinetune": ((), "recommend"), "fitcheck-llm": ((), "fitcheck advise")},
    "writes a training recipe": {"canifinetune": ((), "recipe")},
}
"""What each one's help offers: under which command, in which words. Read from the help at every run."""
