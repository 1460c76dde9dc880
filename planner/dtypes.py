"""The element types of tensors, under the names Hugging Face options use."""

from typing import Literal

Dtype = Literal["fp32", "bf16", "fp16", "fp8", "uint8", "int8", "int16", "int32", "int64", "bool"]
FloatDtype = Literal["fp32", "bf16", "fp16"]

BYTES: dict[str, int] = {
    "fp32": 4,
    "bf16": 2,
    "fp16": 2,
    "fp8": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "bool": 1,
}

TORCH_NAMES: dict[str, Dtype] = {
    "float32": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8",
    "uint8": "uint8",
    "int8": "int8",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
}
"""torch dtype name (also what config.json's ``dtype`` / ``torch_dtype`` holds) -> ours."""

SAFETENSORS_NAMES: dict[str, Dtype] = {
    "F32": "fp32",
    "BF16": "bf16",
    "F16": "fp16",
    "F8_E4M3": "fp8",
    "F8_E5M2": "fp8",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "BOOL": "bool",
}
"""safetensors header dtype -> ours (github.com/huggingface/safetensors, README, Format)."""
