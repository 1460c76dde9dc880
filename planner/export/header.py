"""What every exported file says of itself, and names made of a plan's that any system takes."""

import re

from vramplan.planner.plan import Plan
from vramplan.planner.units import format_bytes


def headline(plan: Plan) -> str:
    """Which plan this is: model, method, fingerprint."""
    return f"{plan.model.repo_id} by {plan.setup.method.kind}: plan {plan.fingerprint[:12]}"


def header(plan: Plan) -> tuple[str, ...]:
    """The comments at the top of an exported file."""
    rows = "batches that may hold pad tokens" if plan.setup.padding == "right" else "batches without pad tokens"
    budget = plan.budget
    return (
        headline(plan),
        f"Exported by vramplan {plan.tool_version}; nothing of it is needed here.",
        f"Expected: {format_bytes(budget.process_bytes)}, at most {format_bytes(budget.high_process_bytes)}, "
        f"for {rows} of {plan.workload.sequence_length} tokens.",
    )


def slug(plan: Plan, longest: int = 52) -> str:
    """A name for a job: lower-case letters, digits and dashes, letters first, as DNS and Slurm have it.

    >>> re.sub("[^a-z0-9]+", "-", "Meta Llama_3.1".lower())
    'meta-llama-3-1'
    """
    model = re.sub("[^a-z0-9]+", "-", plan.model.repo_id.rpartition("/")[2].lower()).strip("-")
    name = f"{model or 'model'}-{plan.setup.method.kind}"[: longest - 9].strip("-")
    return f"{name if name[0].isalpha() else f'm-{name}'}-{plan.fingerprint[:8]}".strip("-")
