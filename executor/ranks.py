"""This process among those of one run: what they agree on, and what they tell the first, which alone speaks.

One process is a rank too, of a world of one: then nothing here does anything. What is agreed on goes over a gloo group
of its own, in host memory, so that no GPU waits for it and none of its memory is used.
"""

import ctypes
import signal
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from vramplan.planner.errors import RunError
from vramplan.planner.export.ranks import distributed_type
from vramplan.planner.plan import Plan

PATIENCE = timedelta(days=7)
"""How long a rank waits for the others: one that died ends the run (executor/rank_agent.py), a hang ends by silence
(executor/child.py), and a pause for room on the disk may take as long as it takes."""
_PR_SET_PDEATHSIG = 1


class Ranks:
    """One rank.

    Args:
        rank: its number; 0 is the first.
        world_size: of how many.
        local_rank: its number on this node, and that of its GPU among those it is shown.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, local_rank: int = 0) -> None:
        self.rank = rank
        self.world_size = world_size
        self.local_rank = local_rank
        self._group: Any = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Ranks":
        """The rank that torchrun's variables name; a world of one where they are absent."""
        names = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        return cls(*(int(environment.get(name, default)) for name, default in names))

    @property
    def first(self) -> bool:
        """Whether this one writes files and events."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.world_size > 1

    def die_with_parent(self) -> None:
        """End at once when the agent that started this rank is gone (Linux, prctl(2))."""
        if self.several:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def meet(self) -> None:
        """Make the group; the processes have met already, as TrainingArguments makes them."""
        if self.several:
            import torch.distributed as dist

            self._group = dist.new_group(backend="gloo", timeout=PATIENCE)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether any rank raised it."""
        if self._group is None:
            return flags
        import torch
        import torch.distributed as dist

        raised = torch.tensor([int(flag) for flag in flags], dtype=torch.int32)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX, group=self._group)
        return tuple(bool(flag) for flag in raised.tolist())

    def wait(self) -> None:
        """Until every rank is here."""
        self.any(False)

    def gather(self, found: Any) -> list[Any]:
        """Every rank's, in their order."""
        if self._group is None:
            return [found]
        import torch.distributed as dist

        everyone: list[Any] = [None] * self.world_size
        dist.all_gather_object(everyone, found, group=self._group)
        return everyone

    def leave(self) -> None:
        """Part, once all have come to the end."""
        if self._group is not None:
            import torch.distributed as dist

            self.wait()
            self._group = None
            dist.destroy_process_group()

    def check_started(self, plan: Plan) -> None:
        """Before anything is loaded.

        Raises:
            RunError: there are not as many processes as planned.
        """
        if self.world_size != plan.setup.world_size:
            raise RunError(
                f"planned for {plan.setup.world_size} processes, started as one of {self.world_size}",
                remedy="start it with: vramplan run PLAN",
            )

    def check_joined(self, plan: Plan, accelerator: Any) -> None:
        """How accelerate joined the processes: on a CPU, for one, it makes DDP of what was to be sharded.

        Raises:
            RunError: it is another kind, or another number, than planned.
        """
        planned = f"{distributed_type(plan) if self.several else 'NO'} of {plan.setup.world_size}"
        found = f"{accelerator.distributed_type.name} of {accelerator.num_processes}"
        if found != planned:
            raise RunError(
                f"planned as {planned} processes, and accelerate made {found} of it",
                remedy="check accelerate's own settings in the environment, or plan with another --sharding",
            )


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error only says that another rank is gone."""
    text = f"{type(error).__name__}: {error}".lower()
    return any(words in text for words in _LOST)


_LOST = ("closed by peer", "reset by peer", "gloo", "distbackenderror", "distnetworkerror", "nccl")
