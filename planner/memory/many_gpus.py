"""What the price of a rank has beside one device's, however what is trained is split: NCCL's buffers."""

from dataclasses import replace

from vramplan.planner.memory.budget import BudgetLine
from vramplan.planner.memory.one_device import computing_setup
from vramplan.planner.memory.price import Pricing, Question
from vramplan.planner.programs.program import Program
from vramplan.planner.units import MIB

NCCL_OF_TWO_BYTES = 544 * MIB
NCCL_BYTES = 688 * MIB
HIGH_NCCL_BYTES = 1600 * MIB
NCCL_SOURCE = (
    "544 MiB for two ranks, 688 for more, on A100s with NVLink (NVIDIA/nccl#964), up to 1.6 GiB seen "
    "(NVIDIA/nccl#864); it grows with channels, not with ranks beyond two nodes (NVIDIA/nccl#986); unmeasured here"
)


class ManyGpus(Pricing):
    """What every kind has beside one device's price: NCCL."""

    question: Question

    def __init__(self, question: Question, program: Program) -> None:
        super().__init__(replace(question, setup=computing_setup(question.setup)), program)
        self.world = question.setup.world_size
        self.trainable_params = self.static.trainable_params  # of the model: what is sharded holds a part of them
        self.asked = question.setup

    def _process_lines(self, over_allocated: int, at_worst: int) -> tuple[BudgetLine, ...]:
        lines = super()._process_lines(over_allocated, at_worst)
        if self.question.route == "cpu":
            return lines
        size = NCCL_OF_TWO_BYTES if self.world == 2 else NCCL_BYTES
        nccl = BudgetLine(
            component="nccl",
            estimate_bytes=size,
            high_bytes=HIGH_NCCL_BYTES,
            bytes_per_param=size / max(1, self.question.model.total_params),
            because=f"buffers of a communicator of {self.world} ranks",
            source=NCCL_SOURCE,
        )
        return (*lines, nccl)
