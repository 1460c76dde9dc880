"""What a command is about: the model, the device and the data its options name, looked up once."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vramplan.planner.adapters.calibration_files import find_figures
from vramplan.planner.candidate import Candidate
from vramplan.planner.cluster import Cluster
from vramplan.planner.device import Device
from vramplan.planner.errors import BadDataError, UsageError
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.programs.key import ProgramKey
from vramplan.planner.resolve import Resolved, resolve
from vramplan.planner.tasks import default_task
from vramplan.planner.workload import RowLengths, Task

if TYPE_CHECKING:
    from vramplan.planner.adapters.datasets import DataFile
    from vramplan.planner.bounds import Bounds, SetupBounds
    from vramplan.planner.rank_bounds import RankBounds


class Subject(NamedTuple):
    """What a command's options name."""

    model: ModelSpec
    device: Device | None
    device_note: str
    """How the device was found, in words."""
    device_named: bool
    """A person named it, so the absence of a verdict is an answer of its own."""
    data: "DataFile | None"
    rows: RowLengths | None = None
    """How long the rows of the training file are; None where that was not measured."""
    cluster: Cluster | None = None
    """What joins several GPUs, and their hosts' memory."""

    @property
    def num_examples(self) -> int | None:
        """Rows of the training file, where there is one."""
        return self.data.num_rows if self.data else None

    @property
    def unmeasured_rows(self) -> int | None:
        """Rows of the training file whose length in tokens nobody measured."""
        return self.num_examples if self.rows is None else None


def look_up(args: argparse.Namespace) -> Subject:
    """Find the model, the device and the data.

    Raises:
        VramplanError: one of them is not to be found; see ``resolve_model`` and ``resolve_device``.
    """
    # These read catalogues and drivers; commands that price nothing need not pay for them.
    from vramplan.planner.adapters.devices import resolve_device
    from vramplan.planner.adapters.models import resolve_model
    from vramplan.planner.adapters.tasks import model_for_task

    if args.memory is not None and args.memory < 1:
        raise UsageError("--memory 0 is not possible", remedy="write for example --memory 12GiB")
    device, note = resolve_device(args.device or "auto", memory_bytes=args.memory, reserve_bytes=args.reserve or 0)
    model = resolve_model(args.model, revision=args.revision)
    task = args.task or default_task(model)
    data = read_training_data(args, task) if args.data else None
    classes = len(data.planned.labels) if data else 0
    model = model_for_task(model, task, classes or args.num_labels)
    named = args.memory is not None or args.device not in (None, "auto")
    template = vars(args).get("chat_template")
    subject = subject_of(model, device, data=data, chat_template=template, device_note=note, device_named=named)
    interconnect, host_memory = vars(args).get("interconnect"), vars(args).get("host_memory")
    if interconnect is None and host_memory is None:
        return subject
    from vramplan.planner.adapters.clusters import make_cluster

    return subject._replace(cluster=make_cluster(interconnect, host_memory))


def read_training_data(args: argparse.Namespace, task: Task) -> "DataFile":
    """The training file the options name, its rows checked for a task.

    Raises:
        BadDataError: it cannot be read, or a row of it is unusable.
    """
    from vramplan.planner.adapters.datasets import read_data_file
    from vramplan.planner.adapters.hub_data import local_data

    return read_data_file(
        local_data(args.data),
        task,
        columns=vars(args).get("columns"),
        skip_bad_rows=bool(vars(args).get("skip_bad_rows")),
        num_labels=args.num_labels,
        eval_fraction=vars(args).get("eval_fraction") or 0.0,
    )


def subject_of(
    model: ModelSpec,
    device: Device | None,
    *,
    data: "str | DataFile | None" = None,
    chat_template: str | None = None,
    device_note: str = "",
    device_named: bool = True,
) -> Subject:
    """A model and a device that are known already, with the training file read and its rows measured.

    Args:
        data: the file, or the path of one whose rows are of the task the model's class is for.
        chat_template: path of a template in place of the tokenizer's own.

    Raises:
        BadDataError: the file cannot be read, or a row of it is unusable.
    """
    if data is None:
        return Subject(model, device, device_note, device_named, None)
    # These read files, tokenizers and the Hub: what has no data need not wait for them.
    from vramplan.planner.adapters.datasets import read_data_file
    from vramplan.planner.adapters.lengths import measure_rows
    from vramplan.planner.adapters.tokenizer_files import find_tokenizer

    data_file = read_data_file(Path(data), default_task(model)) if isinstance(data, str) else data
    template = read_template(chat_template) if chat_template else None
    files = find_tokenizer(model)
    rows = measure_rows(data_file.rows, files, sha256=data_file.planned.sha256, chat_template=template)
    return Subject(model, device, device_note, device_named, data_file, rows)


def read_template(path: str) -> str:
    """A chat template's text.

    Raises:
        BadDataError: it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadDataError(f"cannot read {path}: {error}", remedy="check --chat-template") from error


def complete(subject: Subject, given: Mapping[str, Any]) -> Resolved:
    """The options a person gave as a complete setup for this subject; see ``planner.resolve.resolve``."""
    labels = subject.data.planned.labels if subject.data else ()
    if labels:
        given = {**given, "num_labels": len(labels)}
    return resolve(given, subject.model, subject.device, num_examples=subject.num_examples, rows=subject.rows)


def key_of(subject: Subject, resolved: Resolved) -> ProgramKey:
    """The key of the program that prices a resolved setup: along CUDA's kernels where the device's are not known.

    Raises:
        NoProgramError: nobody can count this model with this setup here.
        UnsupportedError: the setup is understood but not priced yet.
    """
    from vramplan.planner.memory.structure import program_key

    route = (subject.device.route if subject.device is not None else None) or "cuda"
    return program_key(subject.model, resolved.workload, resolved.setup, route, subject.device)


def bounds_of(subject: Subject, given: Mapping[str, Any]) -> "SetupBounds | None":
    """What setups of this subject take at least; None where its device's kernels are not known.

    Args:
        given: the options a person gave: the methods they are asked for by are worth a trace.
    """
    from vramplan.planner.space import has_several_gpus

    return rank_bounds(subject, given) if has_several_gpus(given) else device_bounds(subject, given)


def device_bounds(subject: Subject, given: Mapping[str, Any]) -> "Bounds | None":
    """The bounds on one device."""
    from vramplan.planner.adapters.profiles import profile_of
    from vramplan.planner.adapters.programs import find_program, known_program
    from vramplan.planner.bounds import Bounds
    from vramplan.planner.space import MAIN_METHODS, Cell

    device = subject.device
    if device is not None and device.route is None:
        return None
    named = (given.get("method"),) if given.get("method") else MAIN_METHODS

    def traceable(cell: Cell) -> bool:
        return cell.kind in named and set(cell.changes) <= {"gradient_checkpointing", "optimizer"}

    return Bounds(
        subject.model,
        device,
        lambda key, may_trace: (find_program if may_trace else known_program)(key).program,
        traceable=traceable,
        profile=profile_of(device),
        figures=find_figures(device),
    )


def rank_bounds(subject: Subject, given: Mapping[str, Any]) -> "RankBounds | None":
    """The bounds on each of several GPUs."""
    from vramplan.planner.adapters.clusters import least_free
    from vramplan.planner.adapters.profiles import profile_of
    from vramplan.planner.adapters.programs import find_program
    from vramplan.planner.rank_bounds import RankBounds

    device = least_free(subject.device, int(given.get("gpus") or 1))
    if device is not None and device.route is None:
        return None
    return RankBounds(
        subject.model,
        device,
        lambda key: find_program(key).program,
        profile=profile_of(device),
        figures=find_figures(device),
        cluster=subject.cluster,
    )


def price(
    subject: Subject,
    resolved: Resolved,
    *,
    with_tensors: bool = True,
    may_trace: bool = True,
    searching: bool = False,
) -> Candidate:
    """The price of a resolved setup.

    On a device whose kernels are not known (MPS, XPU, TPU) the figures are those of CUDA's kernels, said so, and there
    is no verdict.

    Args:
        with_tensors: also name the tensors alive at the peak; a table of many setups does without.
        may_trace: trace a memory program that is not here yet, some seconds each; many models are gone through without.
        searching: only whether it fits matters: what cannot fit has figures without the allocator's share.

    Raises:
        NoProgramError: nobody can count this model with this setup here.
        UnsupportedError: the setup is understood but not priced yet.
    """
    from vramplan.planner.adapters.clusters import least_free
    from vramplan.planner.adapters.programs import find_program, known_program
    from vramplan.planner.estimate import estimate

    programs = find_program if may_trace else known_program
    model, device = subject.model, least_free(subject.device, resolved.setup.gpus)
    if device is None or device.route is not None:
        return estimate(
            model,
            resolved.workload,
            resolved.setup,
            device,
            programs=programs,
            with_tensors=with_tensors,
            searching=searching,
            cluster=subject.cluster,
        )
    candidate = estimate(model, resolved.workload, resolved.setup, None, programs=programs, with_tensors=with_tensors)
    reason = f"which kernels {device.kind} runs on {device.name} is not known; the figures are CUDA's"
    return candidate.model_copy(
        update={"device": device, "available_bytes": device.available_bytes, "verdict_reason": reason}
    )
