"""Written by ``python benchmarks/throughput.py fit``; what a figure means: ``constants``."""

from vramplan.planner.throughput.constants import Constants

CONSTANTS = Constants(
    matmul_fraction={"Ampere": 0.75, "Ada": 0.65, "Hopper": 0.62},
    other_matmul_fraction=0.65,
    attention_fraction=0.45,
    memory_fraction=0.85,
    moved_per_written=2.0,
    dequantized_moved=1.5,
    launch_seconds=1e-05,
    low=0.75,
    high=1.4,
    unmeasured_low=0.6,
    unmeasured_high=2.0,
    basis="typical fractions of other people's measurements; not fitted yet",
)
