"""What our executor runs as several processes, of all that can be priced for them."""

from collections.abc import Iterator

from vramplan.planner.deepspeed import half_of, stage_of
from vramplan.planner.device import DeviceKind
from vramplan.planner.methods import Lora, Qlora, quant_of
from vramplan.planner.training_setup import TrainingSetup

_UNDER_FSDP2 = ("full", "lora", "qlora")
_UNDER_ZERO = ("full", "lora")
_SHARDED_OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "sgd")
_WHOLE_STARTS = ("default", "gaussian")
"""Starts of LoRA that do not look at the base's weights."""


def why_not_as_ranks(setup: TrainingSetup, device_kind: DeviceKind | None = None) -> tuple[str, str] | None:
    """What stands in the way of a run on several GPUs and the option that clears it; None where nothing does.

    Args:
        device_kind: None where it is not known, and no rule refuses for it.
    """
    return next(_reasons(setup, device_kind), None)


def _reasons(setup: TrainingSetup, device_kind: DeviceKind | None) -> Iterator[tuple[str, str]]:
    if setup.world_size == 1:
        return
    if setup.nodes > 1:
        yield (
            f"our executor starts the processes of one node, not of {setup.nodes}",
            "vramplan export PLAN --to torchrun",
        )
    if stage_of(setup):
        yield from _zero(setup)
    if setup.sharding == "ddp" and setup.offload != "none":
        yield f"DDP offloads nothing (--offload {setup.offload})", "--offload none"
    if setup.sharding == "fsdp":
        yield from _fsdp(setup, device_kind)


def _zero(setup: TrainingSetup) -> Iterator[tuple[str, str]]:
    """What has been tried: full and LoRA in stages 1 and 2, full in stage 3."""
    method = setup.method
    of_stage_3 = stage_of(setup) == 3
    refused = {
        f"--offload {setup.offload}": (setup.offload != "none", "--offload none"),
        f"--optimizer {setup.optimizer}": (setup.optimizer not in _SHARDED_OPTIMIZERS, "--optimizer adamw_torch_fused"),
        f"--mixed-precision {half_of(setup)}": (half_of(setup) == "fp16", "--sharding fsdp"),
        f"--method {method.kind}": (method.kind not in _UNDER_ZERO, "--sharding fsdp"),
    }
    for what, (unwanted, instead) in refused.items():
        if unwanted:
            yield f"no run of {what} under DeepSpeed is known", instead
    if of_stage_3 and method.kind != "full":
        yield (
            f"--method {method.kind} with --sharding zero3: trl checkpoints it reentrantly, which is another step than "
            "the one that is priced",
            "--sharding zero2",
        )
    if isinstance(method, Lora):
        yield from _lora(method, "DeepSpeed")


def _lora(method: Lora | Qlora, engine: str) -> Iterator[tuple[str, str]]:
    start = method.init_lora_weights
    refused = {
        "--use-dora": (method.use_dora, "--no-use-dora"),
        "--modules-to-save": (bool(method.modules_to_save), "--sharding ddp"),
        "--trainable-token-indices": (bool(method.trainable_token_indices), "--sharding ddp"),
        f"--init-lora-weights {start}": (start not in _WHOLE_STARTS, "--init-lora-weights default"),
    }
    for what, (unwanted, instead) in refused.items():
        if unwanted:
            yield f"no run of {what} under {engine} is known", instead


def _fsdp(setup: TrainingSetup, device_kind: DeviceKind | None) -> Iterator[tuple[str, str]]:
    if device_kind == "cpu":
        yield "accelerate shards models on GPUs alone (--sharding fsdp)", "--sharding ddp"
    method = setup.method
    refused = {
        f"--method {method.kind}": (method.kind not in _UNDER_FSDP2, "--sharding ddp"),
        f"--optimizer {setup.optimizer}": (setup.optimizer not in _SHARDED_OPTIMIZERS, "--optimizer adamw_torch_fused"),
        "--quant int8": (quant_of(method) == "int8", "--quant nf4"),
        "--kbit-preparation": (setup.kbit_preparation, "--no-kbit-preparation"),
    }
    for what, (unwanted, instead) in refused.items():
        if unwanted:
            yield f"no run of {what} under FSDP2 is known", instead
    if isinstance(method, Lora | Qlora):
        yield from _lora(method, "FSDP2")
