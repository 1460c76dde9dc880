"""What a person should know beside the numbers of a price."""

from vramplan.planner.attention import before_ampere, keeps_scores
from vramplan.planner.device import Device
from vramplan.planner.dtypes import BYTES
from vramplan.planner.memory.outside import PRIOR, Figures
from vramplan.planner.memory.recurrence import is_recurrent
from vramplan.planner.memory.static import base_dtype
from vramplan.planner.methods import quant_of
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.stored_quantised import unpacked_warning
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.units import format_bytes


def warnings_of(
    model: ModelSpec, setup: TrainingSetup, device: Device | None, figures: Figures = PRIOR
) -> tuple[str, ...]:
    """The warnings of a setup on a device, one sentence each."""
    out = []
    experts = sum(weight.numel * weight.count for weight in model.weights if weight.module == "experts")
    if experts and quant_of(setup.method) is not None:
        size = format_bytes(experts * BYTES[base_dtype(setup)])
        out.append(f"bitsandbytes does not quantise fused experts: {size} of them stay in {base_dtype(setup)}")
    if model.quantization is not None:
        out.append(unpacked_warning(model, base_dtype(setup)))
    if is_recurrent(model):
        out.append(
            "priced without the mamba-ssm, causal-conv1d and flash-linear-attention kernels: plain torch, as "
            "transformers runs it where they are not installed; with them it takes less"
        )
    if quant_of(setup.method) == "int8":
        out.append(
            "8-bit linears keep their inputs whatever checkpointing says; how many input columns are outliers is data, "
            "and the figure has seven a linear"
        )
    if device is not None and device.route == "cuda" and not figures.num_plans:
        out.append("unmeasured on this GPU: the upper figure rests on published runs, not on our own measurement")
    if before_ampere(device) and keeps_scores(model, setup):
        out.append(
            "sdpa on this GPU has no FlashAttention, and no other kernel for heads that share keys and values: it "
            "makes scores of tokens x tokens for every head, in fp32"
        )
    if setup.packing and setup.attention == "sdpa":
        out.append("packed rows under sdpa need a mask of tokens x tokens; --attention flash_attention_2 needs none")
    elif setup.packing:
        out.append("packed rows are priced as one document each; the data decides how many there are")
    if model.revision is None and model.provenance.source == "catalogue":
        out.append("unpinned: the catalogue's copy of the config, not a revision on the Hub")
    return tuple(out)
