"""What the time model rests on beside data sheets; ``fitted`` has the figures in force."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Constants:
    """Fractions are of the profile's rates."""

    matmul_ceiling: float
    """Of the dense peak: no product of matrices is faster."""
    flops_per_joule: dict[str, float]
    """Operations that the board's power pays for, by the profile's architecture: what bounds cards whose peak is high
    for their power."""
    other_flops_per_joule: float
    """The same of architectures nobody measured: the best of those that were."""
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
    unhidden: float
    """The share of the shorter of device and host time that the longer does not hide."""
    link_fraction: float
    """Of a link's rate, in collectives."""
    low: float
    """The range's lower end, as a share of the typical time."""
    high: float
    unmeasured_low: float
    """The same on architectures nobody measured."""
    unmeasured_high: float
    basis: str
    """What they were fitted on, with the date."""

    def matmul_rate(self, flops_per_second: float, watts: int | None, architecture: str) -> float:
        """Operations a second in long products: the least of what the peak and what the power allow."""
        ceiling = self.matmul_ceiling * flops_per_second
        if watts is None:
            return ceiling
        return min(ceiling, watts * self.flops_per_joule.get(architecture, self.other_flops_per_joule))
