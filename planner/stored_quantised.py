"""Checkpoints that are stored quantised: which can be priced, and as what.

Weights stored as 8- or 4-bit floats stand for a bf16 model: transformers unpacks them while loading
(``FineGrainedFP8Config(dequantize=True)``, ``Mxfp4Config(dequantize=True)``), or a bf16 copy of the repository is
used. GPTQ and AWQ stay packed while adapters train on them, which has no price yet.
"""

from vramplan.planner.errors import UnsupportedError
from vramplan.planner.model_spec import ModelSpec

UNPACKED = ("fp8", "fbgemm_fp8", "mxfp4", "compressed-tensors")
"""quant_method of checkpoints that are priced as the model they stand for."""


def check_quantization(model: ModelSpec) -> None:
    """The checkpoint is unquantised, or stands for an unquantised model.

    Raises:
        UnsupportedError: it is quantised in a way that has no price.
    """
    if model.quantization is not None and model.quantization not in UNPACKED:
        raise UnsupportedError(
            f"{model.repo_id} is already quantised with {model.quantization}, which is not priced yet",
            remedy="price the original, unquantised model: --method qlora quantises it while loading",
        )


def unpacked_warning(model: ModelSpec, dtype: str) -> str:
    """What a person should know about a checkpoint that is priced unpacked."""
    return f"stored as {model.quantization}: priced as the {dtype} model it stands for, unpacked while loading"
