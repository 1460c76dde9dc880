"""A command's arguments as the pricing behind its estimate, for what an answer has no figure for."""

from vramplan.planner.adapters.programs import find_program
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.main import build_parser
from vramplan.planner.cli.options import given_options
from vramplan.planner.memory.price import Pricing, Question


def pricing_of(*command: str) -> Pricing:
    """What ``vramplan estimate`` with these arguments asks, and its program, on CUDA's kernels.

    Raises:
        VramplanError: as the command does.
    """
    args = build_parser("estimate").parse_all(["estimate", *command])
    subject = subjects.look_up(args)
    resolved = subjects.complete(subject, given_options(args))
    question = Question(subject.model, resolved.workload, resolved.setup, "cuda", subject.device)
    return Pricing(question, find_program(subjects.key_of(subject, resolved)).program)
