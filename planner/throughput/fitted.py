"""Written by ``python benchmarks/throughput.py fit``; what a figure means: ``constants``."""

from vramplan.planner.throughput.constants import Constants

CONSTANTS = Constants(
    matmul_ceiling=0.98,
    flops_per_joule={"Ada": 594000000000.0, "Ampere": 556000000000.0},
    other_flops_per_joule=594000000000.0,
    attention_fraction=0.325,
    memory_fraction=0.85,
    moved_per_written=1.19,
    dequantized_moved=1.5,
    launch_seconds=1.62e-05,
    unhidden=0.373,
    link_fraction=0.7,
    low=0.9,
    high=1.2,
    unmeasured_low=0.72,
    unmeasured_high=1.5,
    basis="fitted on 112 published runs (QwenLM/Qwen, huggingface/peft, mosaicml/llm-foundry), 2026-11-22; none ours",
)
