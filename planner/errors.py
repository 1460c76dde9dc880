"""What can go wrong, as a tree, and the exit code each branch ends with.

VramplanError
├── UsageError              2  the command or an option makes no sense
│   ├── UnknownModelError   2  no such model here; the nearest names are offered
│   ├── UnknownDeviceError  2  no such device; the nearest names are offered
│   ├── BadConfigError      2  config.json (or a safetensors header) is broken or absurd
│   ├── UnsupportedError    2  understood, but not something we can price or run
│   └── BadDataError        2  a dataset file or row is unusable
├── PlanError               5  the plan file cannot be trusted
│   ├── CorruptPlanError    5  not JSON, or its hash does not match: edited or damaged
│   ├── PlanFormatError     5  written by another plan format
│   └── StalePlanError      5  the world has drifted from what the plan was made for
├── HubError                6  the Hub said no
│   ├── ModelMissingError   6
│   ├── GatedModelError     6
│   └── OfflineError        6
├── MissingExtraError       7  this needs the `train` (or `demo`) extra
├── NoProgramError          7  no memory program for this model and setup, and none can be traced
├── PreflightError          5  the run may not start
└── RunError                1  the run started and failed
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ends."""

    OK = 0
    """Done; where a verdict was asked for: it fits."""
    FAILED = 1
    """It does not fit, or the run failed."""
    USAGE = 2
    """The command, an option or an input file makes no sense."""
    TIGHT = 3
    """The estimate fits but its upper bound does not."""
    NO_VERDICT = 4
    """A device was named but no verdict is possible for it."""
    REFUSED = 5
    """A plan was refused: edited, of another format, drifted, or preflight said no."""
    UNREACHABLE = 6
    """The Hub could not be reached or did not give access."""
    MISSING_EXTRA = 7
    """An optional part of the installation is needed."""
    INTERRUPTED = 130
    """Stopped by the user."""


class VramplanError(Exception):
    """An error meant for a person: what happened and why, and what to do about it.

    Args:
        message: what happened and why, one line.
        remedy: what to do, one line; often a command.
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return self.message if self.remedy is None else f"{self.message}\n  {self.remedy}"


class UsageError(VramplanError):
    exit_code = ExitCode.USAGE


class UnknownModelError(UsageError):
    pass


class UnknownDeviceError(UsageError):
    pass


class BadConfigError(UsageError):
    pass


class UnsupportedError(UsageError):
    pass


class BadDataError(UsageError):
    pass


class PlanError(VramplanError):
    exit_code = ExitCode.REFUSED


class CorruptPlanError(PlanError):
    pass


class PlanFormatError(PlanError):
    pass


class StalePlanError(PlanError):
    pass


class HubError(VramplanError):
    exit_code = ExitCode.UNREACHABLE


class ModelMissingError(HubError):
    pass


class GatedModelError(HubError):
    pass


class OfflineError(HubError):
    pass


class MissingExtraError(VramplanError):
    exit_code = ExitCode.MISSING_EXTRA


class NoProgramError(VramplanError):
    exit_code = ExitCode.MISSING_EXTRA


class PreflightError(VramplanError):
    exit_code = ExitCode.REFUSED


class RunError(VramplanError):
    exit_code = ExitCode.FAILED
