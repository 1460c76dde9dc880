"""Tracker: every tensor storage that appears while it is active, as a log of allocations and frees.

A TorchDispatchMode sees each operation's outputs; a weak reference on each new storage tells when it dies. It works on
real tensors and on fake ones, so the same step can be traced without memory and tracked live. It cannot see buffers
inside a kernel; those are added by name where a source gives their size (``internal``).
"""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from vramplan.planner.trace.kernel_buffers import CPU_BUFFERS

aten = torch.ops.aten
EFFICIENT_BACKWARD = str(aten._scaled_dot_product_efficient_attention_backward.default)
"""Its gradient of the bias has rows padded to 16, the last one too, which the fake kernel leaves out
(aten/src/ATen/native/transformers/cuda/attention_backward.cu, _efficient_attention_backward)."""
EventKind = Literal["alloc", "free", "accumulate", "macro"]


@dataclass(slots=True)
class Storage:
    """One tensor storage that lived during the trace."""

    index: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    op: str
    segment: tuple[str, int | None]
    label: str
    tag: str | None = None
    """What it is when its role is known: weight, buffer, gradient, batch, recompute ..."""


@dataclass(slots=True)
class Event:
    """One entry of the log. ``storage`` is an index into Tracker.storages, or a macro's index."""

    kind: EventKind
    storage: int
    segment: tuple[str, int | None]


@dataclass(slots=True)
class Macro:
    """A stretch of the step whose allocations follow a known loop, kept as its name and sizes."""

    name: str
    sizes: dict[str, int]
    flags: dict[str, Any]


@dataclass
class Segment:
    """Where the step is now: a phase name and, inside the model, the layer."""

    name: str = "init"
    layer: int | None = None
    modules: list[str] = field(default_factory=list)


class Tracker(TorchDispatchMode):  # type: ignore[misc]  # torch is not followed by the type checker
    """Logs allocations and frees of storages on ``device_type``.

    Args:
        device_type: only storages there count.
        num_valid_labels: what a boolean gather returns on fake tensors, where the count is data.
        padded: the answer to ``mask.all()`` on fake tensors is False.
        replace: operations to run as another function (opaque kernels opened up).
        gathers_tokens: rows lose their padding by an index; its backward writes in place, as a boolean one's does.
        internal: buffers inside a kernel, by operation: ``f(*args) -> list[(shape, dtype)]``; the CPU's by default.
    """

    def __init__(
        self,
        device_type: str = "cpu",
        *,
        num_valid_labels: int | None = None,
        padded: bool = False,
        replace: dict[Any, Callable[..., Any]] | None = None,
        internal: dict[Any, Callable[..., list[tuple[tuple[int, ...], torch.dtype]]]] | None = None,
        gathers_tokens: bool = False,
    ) -> None:
        super().__init__()
        self.device_type = device_type
        self.num_valid_labels = num_valid_labels
        self.padded = padded
        self.replace = replace or {}
        self.internal = CPU_BUFFERS if internal is None else internal
        self.gathers_tokens = gathers_tokens
        self.storages: list[Storage] = []
        self.events: list[Event] = []
        self.macros: list[Macro] = []
        self.where = Segment()
        self.recomputing = False
        self._live: dict[int, int] = {}
        self._refs: dict[int, weakref.ref[Any]] = {}

    # -------------------------------------------------------------- storages
    def see(self, tensor: torch.Tensor, op: str = "outside", tag: str | None = None) -> int | None:
        """Log the tensor's storage if it is new; its index, or None when it is empty or on another device."""
        if tensor.device.type != self.device_type:
            return None
        storage = tensor.untyped_storage()
        address = storage._cdata
        index = self._live.get(address)
        if index is None:
            nbytes = storage.nbytes()
            if op == EFFICIENT_BACKWARD:
                nbytes = max(nbytes, tensor.stride(0) * tensor.shape[0] * tensor.element_size())
            if nbytes == 0:
                return None
            index = self._add(nbytes, tuple(tensor.shape), tensor.dtype, op)
            self._live[address] = index
            self._refs[index] = weakref.ref(storage, self._on_death(index, address))
        if tag is not None:
            self.storages[index].tag = tag
        return index

    def _add(self, nbytes: int, shape: tuple[int, ...], dtype: torch.dtype, op: str) -> int:
        index = len(self.storages)
        where = self.where
        segment = (where.name, where.layer)
        label = where.modules[-1] if where.modules else ""
        tag = "recompute" if self.recomputing else None
        self.storages.append(Storage(index, nbytes, shape, dtype, op, segment, label, tag))
        self.events.append(Event("alloc", index, segment))
        return index

    def _on_death(self, index: int, address: int) -> Callable[[Any], None]:
        events, live, refs, where = self.events, self._live, self._refs, self.where

        def died(_: Any) -> None:
            events.append(Event("free", index, (where.name, where.layer)))
            refs.pop(index, None)
            if live.get(address) == index:
                del live[address]

        return died

    def accumulated(self, parameter: torch.Tensor) -> None:
        """The parameter's gradient has just been accumulated: mark its storage."""
        grad = parameter.grad
        index = None if grad is None else self.see(grad)
        if index is not None:
            self.storages[index].tag = "gradient"
            self.events.append(Event("accumulate", index, (self.where.name, self.where.layer)))

    def carry(self) -> None:
        """Begin the log again with what is alive now; what was not there before the step was left by the one before:
        the names it kept bound."""
        alive = [self.storages[index] for index in sorted(self._refs)]
        left = [storage for storage in alive if storage.segment[0] != "init"]
        for storage in left:
            layer = storage.segment[1]
            storage.segment = ("carried", None) if layer is None else ("carried.layer", layer)
            storage.tag = None
        left.sort(key=lambda storage: (storage.segment[1] is not None, storage.segment[1] or 0, storage.index))
        static = [storage for storage in alive if storage.segment[0] == "init"]
        self.events[:] = [Event("alloc", storage.index, storage.segment) for storage in static + left]

    def _kernel_buffers(self, func: Any, args: tuple[Any, ...]) -> None:
        """Buffers a kernel allocates and frees inside one call, after its outputs exist."""
        indices = []
        for shape, dtype in self.internal[func](*args):
            nbytes = dtype.itemsize
            for size in shape:
                nbytes *= size
            indices.append(self._add(nbytes, shape, dtype, f"{func} (kernel buffer)"))
        for index in indices:
            self.events.append(Event("free", index, (self.where.name, self.where.layer)))

    # -------------------------------------------------------------- macros
    @contextmanager
    def macro(self, name: str, sizes: dict[str, int], **flags: Any) -> Iterator[None]:
        """Replace what happens inside by one named entry; only storages alive at the end are logged after it."""
        first_event = len(self.events)
        first_storage = len(self.storages)
        yield
        inside = self.events[first_event:]
        del self.events[first_event:]
        self.macros.append(Macro(name, sizes, flags))
        segment = (self.where.name, self.where.layer)
        self.events.append(Event("macro", len(self.macros) - 1, segment))
        died = {event.storage for event in inside if event.kind == "free"}
        for event in inside:
            born_inside = event.storage >= first_storage
            survives = event.kind == "alloc" and event.storage not in died
            if survives or (event.kind == "free" and not born_inside):
                self.events.append(event)

    # -------------------------------------------------------------- dispatch
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default and isinstance(args[0], FakeTensor) and args[0].constant is None:
            return self._scalar(args[0])
        if func is aten.index.Tensor and self._is_boolean_gather(args) and isinstance(args[0], FakeTensor):
            return self._gather_valid(args)
        if func is aten.index_put.default and (self.gathers_tokens or self._is_boolean_gather(args)):
            # autograd's index_backward writes in place; any dispatch mode turns it into a copy that never exists
            if not isinstance(args[0], FakeTensor):
                aten.index_put_.default(*args, **kwargs)
            return args[0]
        replacement = self.replace.get(func)
        if replacement is not None:
            with self:
                return replacement(*args, **kwargs)
        out = func(*args, **kwargs)
        self._see_all(out, str(func))
        if func in self.internal:
            self._kernel_buffers(func, args)
        return out

    def _see_all(self, out: Any, op: str) -> None:
        if isinstance(out, torch.Tensor):
            self.see(out, op)
        elif isinstance(out, (tuple, list)):
            for item in out:
                self._see_all(item, op)

    @staticmethod
    def _is_boolean_gather(args: tuple[Any, ...]) -> bool:
        indices = args[1]
        return len(indices) > 0 and indices[0] is not None and indices[0].dtype == torch.bool

    def _gather_valid(self, args: tuple[Any, ...]) -> torch.Tensor:
        source, mask = args[0], args[1][0]
        count = mask.numel() if self.num_valid_labels is None else self.num_valid_labels
        out = torch.empty((count, *source.shape[mask.dim() :]), dtype=source.dtype, device=source.device)
        self.see(out, "aten.index.Tensor")
        return out

    def _scalar(self, tensor: torch.Tensor) -> bool | int | float:
        """What ``.item()`` or ``bool()`` of a fake tensor answers: masks are full unless padded, numbers are one."""
        if tensor.dtype == torch.bool:
            return not self.padded
        return 1.0 if tensor.dtype.is_floating_point else 1


@contextmanager
def exact_lifetimes() -> Iterator[None]:
    """Collect garbage once, then keep the collector off, so that frees happen where reference counts put them."""
    gc.collect()
    gc.freeze()  # what survived is libraries: later collections need not look at it again
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
