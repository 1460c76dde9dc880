"""What the time model rests on beside data sheets; ``fitted`` has the figures in force."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Constants:
    """Fractions are of the profile's rates."""

    matmul_fraction: dict[str, float]
    """Of the dense peak that long products reach, by the profile's architecture."""
    other_matmul_fraction: float
    """The same of architectures nobody measured."""
    attention_fraction: float
    """Of the dense peak, in fused attention kernels."""
    memory_fraction: float
    """Of the memory's rate, in streams of reads and writes."""
    moved_per_written: float
    """Bytes read and written for each byte an elementwise kernel writes."""
    dequantized_moved: float
    """The same for each byte of weights made whole again."""
    launch_seconds: float
    """Host time to start one kernel from Python; a phase is never shorter than its launches."""
    low: float
    """The range's lower end, as a share of the typical time."""
    high: float
    unmeasured_low: float
    """The same on architectures nobody measured."""
    unmeasured_high: float
    basis: str
    """What they were fitted on, with the date."""

    def matmul_fraction_of(self, architecture: str) -> float:
        return self.matmul_fraction.get(architecture, self.other_matmul_fraction)
