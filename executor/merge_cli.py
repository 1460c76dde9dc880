"""``vramplan merge RUN``: a trained adapter folded into its base, or taken out on its own."""

import argparse
from pathlib import Path
from typing import Any

from vramplan.executor.finished import FinishedRun, finished_run
from vramplan.executor.finished_child import carry_out
from vramplan.executor.folder_size import folder_bytes
from vramplan.executor.merge_adapter import export_adapter
from vramplan.executor.merge_request import (
    MergeRequest,
    adapter_bytes,
    check_disk,
    check_mergeable,
    check_output,
    check_room,
    merged_bytes,
    merging_bytes,
)
from vramplan.planner.adapters.devices import read_cpu
from vramplan.planner.cli.parsing import one_of, size
from vramplan.planner.cli.render import plain, show, show_json, tell
from vramplan.planner.dtypes import FloatDtype
from vramplan.planner.errors import ExitCode
from vramplan.planner.units import GIB, format_bytes

SHARD_BYTES = 5 * GIB


def add_parser(subparsers: Any) -> None:
    """Add ``merge`` to the command line."""
    parser = subparsers.add_parser(
        "merge",
        help="a trained adapter folded into its base",
        description="Fold a run's adapter into its base, on the host, and write a folder that loads anywhere.",
    )
    parser.add_argument("run_name", metavar="RUN", help="a run folder, or its name under runs/")
    parser.add_argument("-o", "--output", metavar="FOLDER", type=Path, help="where to write; RUN/merged without")
    parser.add_argument("--dtype", type=one_of("bf16", "fp16", "fp32"), metavar="DTYPE", help="the base's without")
    parser.add_argument("--max-shard-size", type=size, metavar="SIZE", default=SHARD_BYTES, help="of one file (5GiB)")
    parser.add_argument("--adapter-only", action="store_true", help="write the adapter alone, ready to be shared")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Check that it can be done and that there is room, then do it.

    Raises:
        UsageError: no such run, or something is where the result should go.
        UnsupportedError: this adapter cannot be merged.
        PreflightError: memory or disk is short.
        RunError: the run has not finished, or the merge failed.
    """
    found = finished_run(args.run_name)
    output = args.output or found.folder / ("adapter-only" if args.adapter_only else "merged")
    if args.adapter_only:
        check_output(output)
        check_disk(output, adapter_bytes(found))
        export_adapter(found, output)
        return _tell_result(found, output, None, as_json=args.json)
    dtype: FloatDtype = args.dtype or found.plan.setup.precision.dtype
    merge(found, output, dtype, args.max_shard_size)
    return _tell_result(found, output, dtype, as_json=args.json)


def merge(found: FinishedRun, output: Path, dtype: FloatDtype, max_shard_bytes: int = SHARD_BYTES) -> None:
    """Fold a run's adapter into its base, in a child process; ``run`` says what is raised."""
    check_mergeable(found)
    check_output(output)
    check_room(found, output, dtype)
    tell(
        f"merging {found.name} in {dtype}: up to {format_bytes(merging_bytes(found, dtype))} of host memory, "
        f"{format_bytes(merged_bytes(found, dtype))} on disk"
    )
    request = MergeRequest(run=found.tuned, output=str(output.absolute()), dtype=dtype, max_shard_bytes=max_shard_bytes)
    carry_out("merge", request, found, read_cpu())


def _tell_result(found: FinishedRun, output: Path, dtype: FloatDtype | None, *, as_json: bool) -> ExitCode:
    size_bytes = folder_bytes(str(output))
    if as_json:
        show_json({"run": str(found.folder), "output": str(output), "dtype": dtype, "size_bytes": size_bytes})
    else:
        show(f"{plain(str(output))}: {format_bytes(size_bytes)}")
    return ExitCode.OK
