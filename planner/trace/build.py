"""Build the memory program of a key: record at two sizes, fold, and prove it at a third size and depth.

A program that misses its held-out trace by a byte, in any phase, is not returned.
"""

import importlib.metadata
import warnings
from typing import Any

from vramplan.planner.dims import BASE, OF_METHOD, OF_TASK, has_fixed_depth, window_of, with_derived
from vramplan.planner.memory.recurrence import num_chunks, own_lengths
from vramplan.planner.memory.replay import PHASES, At, Replay
from vramplan.planner.memory.stack import MINIMUM_FOLDED_DEPTH
from vramplan.planner.memory.static_methods import prefix_width
from vramplan.planner.programs.key import ProgramKey
from vramplan.planner.programs.program import FROZEN, Program, neighbourhood, stack_bounds, stack_name
from vramplan.planner.trace.fold import FoldError, canonical, fold
from vramplan.planner.trace.record import Case, record
from vramplan.planner.trace.symbols import NoSymbolError
from vramplan.planner.trace.tracker import Tracker

TRACED_WITH = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")

FIT_SIZES = (
    {"B": 5, "S": 201, "N": 617, "h": 1920, "f": 2944, "H": 15, "K": 3, "d": 88, "V": 5003, "r": 7}
    | {"P": 30, "b": 6, "e": 1187, "C": 17, "D": 101, "t": 43},
    {"B": 3, "S": 327, "N": 331, "h": 8960, "f": 3968, "H": 10, "K": 5, "d": 104, "V": 7001, "r": 11}
    | {"P": 59, "b": 13, "e": 743, "C": 23, "D": 269, "t": 71},
)
"""Distinct sizes, also when rounded to 16, 32 and 128, so that a byte count names its variables; head_dim a multiple
of 8, as FlashAttention wants it."""
HELD_OUT = {"B": 2, "S": 1100, "N": 1403, "h": 1024, "f": 4096, "H": 16, "K": 4, "d": 64, "V": 40001, "r": 16} | {
    "P": 20,
    "b": 64,
    "e": 512,
    "C": 3,
    "D": 411,
    "t": 9,
}
CHUNKS = {201: (2, 3), 327: (7, -13), 1100: (3, 5)}
"""Chunks of a recurrent model's trace and tokens beyond, by the sequence length of other models' traces."""
LONGEST_OWN = 500
"""Longest sequence of a trace at a model's own sizes: learned positions may end at 512."""
WINDOW = 64
"""Sliding window of a trace that must exceed it; otherwise longer than any sequence."""


class ProofError(Exception):
    """The folded program does not give the bytes of a trace it was not made from."""


def traced_versions() -> dict[str, str]:
    """Versions of the libraries a program depends on."""
    return {name: importlib.metadata.version(name) for name in TRACED_WITH}


def build_program(key: ProgramKey) -> Program:
    """Trace, fold and prove.

    Raises:
        FoldError, NoSymbolError: the structure does not make one program.
        ProofError: the held-out trace differs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside transformers and torch; nothing a person can act on
        try:
            return _build(key, radius=1)
        except FoldError:
            # what a layer does may depend on more than its neighbours: adapters on the MLP alone leave the first
            # layer's attention without a backward, so the second layer frees what the first otherwise would; and where
            # layers use what one far before them made, each is what its place in the whole makes it
            fixed = has_fixed_depth(key.structure.config or {})
            return _build(key, radius=len(key.structure.kinds) if fixed else 2)


def _build(key: ProgramKey, *, radius: int) -> Program:
    stack = _shortest(key, radius)
    sizes = [_regime(key, each, _prefixed(key, stack)) for each in FIT_SIZES]
    traces = [record(_case(key, each, stack)) for each in sizes]
    kinds = _kinds(key, stack)
    program = fold(key, traces, [with_derived(each) for each in sizes], kinds, traced_versions(), radius=radius)
    prove(program, *held_out(key, radius))
    return program


def held_out(key: ProgramKey, radius: int) -> tuple[dict[str, int], tuple[int, ...]]:
    """What a program is proved at: sizes, and layers as positions in the key's short stack."""
    stack = _deeper(key, _shortest(key, radius), radius)
    return _regime(key, HELD_OUT, _prefixed(key, stack)), stack


def _prefixed(key: ProgramKey, stack: tuple[int, ...]) -> int:
    """Layers that a prefix would have: those of the last stack."""
    start, stop = stack_bounds(_kinds(key, stack))[-1]
    return stop - start


def _shortest(key: ProgramKey, radius: int) -> tuple[int, ...]:
    stack = tuple(range(len(key.structure.kinds)))
    for _ in range(radius - 1):
        stack = _deeper(key, stack, 1)
    return stack


def _kinds(key: ProgramKey, stack: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(key.structure.kinds[position] for position in stack)


def _deeper(key: ProgramKey, stack: tuple[int, ...], radius: int) -> tuple[int, ...]:
    if has_fixed_depth(key.structure.config or {}):
        return stack
    return tuple(stack[position] for position in deeper(_kinds(key, stack), radius))


def deeper(kinds: tuple[str, ...], radius: int = 1) -> tuple[int, ...]:
    """A deeper stack of the same neighbourhoods, as positions in this one: a short stretch of it comes two times more,
    one with a layer of every kind if there is one.

    >>> deeper(("s", "f", "s", "f", "s", "f"))
    (0, 1, 0, 1, 0, 1, 2, 3, 4, 5)
    """
    depth = len(kinds)
    whole = tuple(range(depth))
    if depth < MINIMUM_FOLDED_DEPTH:
        return whole
    bounds = stack_bounds(kinds)
    if len(bounds) > 1:
        stacks = [(start, deeper(kinds[start:stop], radius)) for start, stop in bounds]
        return tuple(start + layer for start, layers in stacks for layer in layers)
    known = _neighbourhoods(kinds, radius)
    stretches = [(stop - length, stop) for length in range(1, depth) for stop in range(length, depth)]
    for start, stop in sorted(stretches, key=lambda ends: set(kinds[slice(*ends)]) != set(kinds)):
        deep = whole[:stop] + whole[start:stop] * 2 + whole[stop:]
        if _neighbourhoods(tuple(kinds[position] for position in deep), radius) == known:
            return deep
    return whole


def _neighbourhoods(kinds: tuple[str, ...], radius: int) -> set[str]:
    return {neighbourhood(kinds, layer, radius) for layer in range(len(kinds))}


def prove(program: Program, sizes: dict[str, int], stack: tuple[int, ...]) -> None:
    """Every phase's peak and the end of the step equal a trace's, to the byte.

    Args:
        stack: the layers to trace, as positions in the key's short stack.

    Raises:
        FoldError: the program refers to what is not there.
        ProofError: which phase differs, by how much.
    """
    trace = record(_case(program.key, sizes, stack), as_macro=False)
    kinds = _kinds(program.key, stack)
    for quantum in (1, 512):
        try:
            replayed = Replay(program, At(sizes, kinds, quantum)).run()
        except IndexError as error:  # what a layer frees was made by another that looks alike and made less
            raise FoldError("layers in equal neighbourhoods make different tensors") from error
        peaks, end = measure(trace, quantum)
        for phase, peak in peaks.items():
            difference = replayed.peaks[phase].total_bytes - peak
            if difference:
                raise ProofError(f"{phase} differs by {difference} bytes from a held-out trace")
        if replayed.end_bytes != end:
            raise ProofError(f"the step's end differs by {replayed.end_bytes - end} bytes from a held-out trace")


def measure(trace: Tracker, quantum: int) -> tuple[dict[Any, int], int]:
    """A trace's own peak per phase above its static tensors, what was there as the phase began included, and what is
    left at its end."""
    level, here = 0, None
    peaks: dict[Any, int] = {}
    for event in canonical(trace):
        if event.kind == "accumulate":
            continue
        phase = PHASES[event.segment[0]]
        if phase != here:  # a shared layer that runs again comes back to one
            peaks[phase], here = max(peaks.get(phase, 0), level), phase
        size = -(-trace.storages[event.storage].nbytes // quantum) * quantum
        level += size if event.kind == "alloc" else -size
        peaks[phase] = max(peaks[phase], level)
    return peaks, level


def _regime(key: ProgramKey, sizes: dict[str, int], depth: int) -> dict[str, int]:
    """Trace sizes inside the key's regime; ``depth``: layers that have a prefix, if it is one."""
    config = key.structure.config
    of_method = OF_METHOD.get(key.mode.method, ())
    of_task = OF_TASK.get(key.mode.task, ())
    names = (*(BASE if config is None else ("B", "S", "N", "r")), *of_method, *of_task)
    out = {name: sizes[name] for name in names if name in sizes}
    if config is not None:
        beside = key.mode.task == "seq2seq" and key.mode.method == "prefix"  # before the decoder's tokens
        out["S"] = min(out["S"], LONGEST_OWN - (0 if beside else out.get("P", 0)))
        window = window_of(config)
        if window is not None and key.structure.windowed:
            out["S"] += window
        elif window is not None and window <= LONGEST_OWN:
            out["S"] = window * out["S"] // (LONGEST_OWN + 1)
        _lengthen(key, sizes, out)
    if key.mode.trainable_tokens:
        out["t"] = sizes["t"]
    if key.mode.packing:
        out["Q"] = out["B"]
    if key.structure.single_row:
        out["B"] = 1
        out["N"] = max(1, min(out["N"], out["S"] - 27))
    if key.structure.heads == "mha":
        out["K"] = out["H"]
    elif key.structure.heads == "mqa":
        out["K"] = 1
    if not key.structure.aligned_heads and config is None:
        out["d"] += 4
    if "L" in of_method:
        out["L"] = depth
        out["W"] = 2 * depth * out["K"] * out["d"] if config is None else prefix_width(config, depth)
    return out


def _lengthen(key: ProgramKey, sizes: dict[str, int], out: dict[str, int]) -> None:
    """The length of a recurrent model's trace: the key's own, or several whole chunks and a part of one."""
    structure = key.structure
    assert structure.config is not None
    one = num_chunks(structure.model_type, structure.config, 1)
    if structure.length is not None:
        out["S"] = structure.length
    elif one is not None:
        chunk = int(structure.config.get("mamba_chunk_size") or structure.config["chunk_size"])
        chunks, odd = CHUNKS[sizes["S"]]
        out["S"] = chunks * chunk - 5 * chunk // 8 + odd  # whole chunks are no multiple of 16, 32 or 128 here
    out |= own_lengths(structure.model_type, structure.config, out["S"])


def _case(key: ProgramKey, sizes: dict[str, int], stack: tuple[int, ...]) -> Case:
    on_cuda_fused = key.mode.route == "cuda" and key.mode.loss == "fused"
    structure, kinds = key.structure, _kinds(key, stack)
    trained = sum(not (stack_name(kind) or "").startswith(FROZEN) for kind in kinds)
    return Case(
        config=structure.config or trace_config(key, sizes, kinds),
        mode=key.mode,
        batch=sizes["B"],
        sequence=sizes["S"],
        rank=sizes["r"],
        documents=sizes.get("Q"),
        method_sizes=sizes,
        num_valid_labels=sizes["N"] if on_cuda_fused else None,
        num_labels=sizes.get("C"),
        target=sizes.get("D"),
        trainable_blocks=trained if key.mode.last_blocks else None,
        kept=tuple(structure.kept[position] for position in stack) if structure.config else (),
    )


def trace_config(key: ProgramKey, sizes: dict[str, int], kinds: tuple[str, ...]) -> dict[str, Any]:
    """config.json of a model with the key's structure and these sizes."""
    structure = key.structure
    fields = dict(structure.fields)
    slides = fields.pop("slides", False)
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        fields[name] = 30.0 if fields.get(name) else None
    config: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    config |= {
        "model_type": structure.model_type,
        "hidden_size": sizes["h"],
        "intermediate_size": sizes["f"],
        "num_attention_heads": sizes["H"],
        "num_key_value_heads": sizes["K"],
        "head_dim": sizes["d"],
        "vocab_size": sizes["V"],
        "num_hidden_layers": len(kinds),
        "max_position_embeddings": 32768,
        "pad_token_id": None,
        "attention_dropout": 0.0,
        "sliding_window": (WINDOW if structure.windowed else 32768) if slides else None,
    }
    bare = [kind.removeprefix(f"{FROZEN}:").removesuffix("/nope") for kind in kinds]
    if len(set(bare)) > 1 or slides:
        config["layer_types"] = bare
    if structure.model_type == "smollm3":
        config["no_rope_layers"] = [0 if kind.endswith("/nope") else 1 for kind in kinds]
    return config


__all__ = ["FoldError", "NoSymbolError", "ProofError", "build_program", "measure", "prove", "trace_config"]
