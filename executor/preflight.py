"""Go or no-go: everything that can be known to stop a run before it costs anything. No torch here."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pydantic import computed_field

from vramplan.executor import checks
from vramplan.executor.checks import Check
from vramplan.planner.cli.render import plain, table, terminal_width
from vramplan.planner.device import Device
from vramplan.planner.drift import check_drift
from vramplan.planner.plan import Plan
from vramplan.planner.values import Value

_WORDS = {"ok": "ok", "warns": "warns", "blocks": "BLOCKS"}


class Preflight(Value):
    """Every check and its verdict."""

    checks: tuple[Check, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def go(self) -> bool:
        """Nothing blocks."""
        return all(check.verdict != "blocks" for check in self.checks)


def preflight(
    plan: Plan,
    plan_path: Path,
    *,
    device: Device | None,
    packages: Mapping[str, str],
    allow: Collection[str] = (),
    verified: bool = False,
    resumes: bool = False,
    ranks: Sequence[Device] = (),
) -> Preflight:
    """Check a plan against this machine, now.

    Args:
        plan_path: where the plan was read from; its folder is the run folder.
        device: a reading of the device the run would use; None when there is none here.
        packages: installed versions (``packages.installed_packages``).
        allow: names of drifts that a person accepts; they warn instead of blocking.
        verified: a few real steps have passed, or come first, so a tight fit only warns.
        resumes: the checkpoints in the output folder are wanted there, or may go.
        ranks: the devices of several processes, one each (``here.devices_here``).
    """
    drifts = check_drift(
        plan,
        device=device,
        packages=packages,
        data=checks.data_now(plan),
        model_config_sha256=checks.model_config_now(plan),
        verified=verified,
    )
    drifted = {drift.what for drift in drifts}
    return Preflight(
        checks=(
            checks.supported(plan),
            checks.training_libraries(plan, packages),
            *(() if plan.recipe.report_to == "none" else (checks.reports(plan),)),
            *(() if plan.setup.world_size == 1 or device is None else (checks.ranks(plan, ranks),)),
            *(checks.drifted(drift, allow) for drift in drifts),
            *(() if drifted & {"device", "memory"} else (checks.memory(plan, device),)),
            checks.host_memory(plan),
            checks.disk(plan),
            checks.model(plan),
            *checks.download(plan),
            *(() if "data" in drifted else (checks.training_data(plan),)),
            checks.output(plan, resumes=resumes),
            checks.unlocked(plan, plan_path.parent),
        )
    )


def preflight_text(result: Preflight, *, width: int | None = None) -> str:
    """The checks as a table, the remedies of those that do not pass, and the verdict."""
    columns = width or terminal_width()
    rows = [["check", "result", "found"]]
    rows += [[check.name, _WORDS[check.verdict], plain(check.found)] for check in result.checks]
    remedies = [
        f"  {plain(check.name)}: {plain(check.remedy)}"
        for check in result.checks
        if check.verdict != "ok" and check.remedy
    ]
    verdict = "go" if result.go else "no go"
    return "\n".join([table(rows, "<<<", width=columns), *remedies, f"preflight: {verdict}"])
