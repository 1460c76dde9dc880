"""Small models of many families, a program of each and its real step, for the tests of tasks and architectures."""

from typing import Any

SIZES = {"B": 2, "S": 40}
LLAMA_SIZES = {"B": 2, "S": 48, "h": 64, "f": 176, "H": 4, "K": 2, "d": 16, "V": 300, "r": 4, "N": 94}
LLAMA_LAYERS = ("full_attention",) * 6


def llama_key(mode: dict[str, Any], *, biases: bool = False, **structure: Any) -> Any:
    """The key of a Llama-shaped model of any size, its heads grouped; ``mode`` is a Mode's fields."""
    from vramplan.planner.programs.key import Mode, ProgramKey, Structure

    fields = {"hidden_act": "silu", "tie_word_embeddings": False, "attention_bias": biases, "mlp_bias": biases}
    shape = {"heads": "gqa", "single_row": False, "windowed": False, **structure}
    if mode.get("method", "full") != "full" and mode.get("route", "cpu") == "cpu":
        mode = {"adapter_dtype": "fp32", **mode}
    return ProgramKey(
        structure=Structure(model_type="llama", fields=fields, kinds=LLAMA_LAYERS[:4], **shape),
        mode=Mode(**{"route": "cpu", "method": "full", "dtype": "fp32", **mode}),
    )


def assert_llama_exact(key: Any, sizes: dict[str, int]) -> None:
    """The program of a Llama-shaped key gives the bytes of a real step at these sizes, of six layers."""
    from vramplan.planner.memory.replay import At, Replay
    from vramplan.planner.trace import real
    from vramplan.planner.trace.build import build_program, trace_config
    from vramplan.planner.trace.record import Case

    found = Replay(build_program(key), At(sizes, LLAMA_LAYERS, 1)).run()
    config = trace_config(key, sizes, LLAMA_LAYERS)
    case = Case(config, key.mode, sizes["B"], sizes["S"], sizes["r"], documents=sizes.get("Q"), method_sizes=sizes)
    peaks, end = real.real_step(real.real_model(case), case)
    assert {phase: peak.total_bytes for phase, peak in found.peaks.items()} == peaks
    assert found.end_bytes == end


def spec_of(config: dict[str, Any], task: str, *, num_labels: int = 3) -> Any:
    """The ModelSpec of a config under a task's class, counted by transformers."""
    from vramplan.planner.model_spec import ModelSpec, Provenance
    from vramplan.planner.trace import weights

    labels = num_labels if task == "classification" else None
    model = weights.task_model(weights.build_config(config), task, labels)
    return ModelSpec(
        repo_id="tiny",
        model_type=model.config.model_type,
        architecture=type(model).__name__,
        config=weights.completed_config(model.config, config),
        weights=weights.weights_on_meta(model, "fp32"),
        checkpoint_dtype="fp32",
        output_embedding=weights.output_embedding(model),
        provenance=Provenance(source="folder", location="tiny", parameters_basis="counted"),
    )


def question_of(spec: Any, task: str, method: Any, *, rows: int = 2, **setup: Any) -> Any:
    """(workload, setup) of a small step on a CPU in fp32."""
    from vramplan.planner.training_setup import Precision, TrainingSetup
    from vramplan.planner.workload import Workload

    workload = Workload(
        task=task,
        sequence_length=SIZES["S"],
        num_labels=3 if task == "classification" else None,
        target_length=24 if task == "seq2seq" else None,
    )
    loss = "fused" if task == "causal-lm" else "standard"
    fields = {"loss": loss, **setup}
    precision = Precision(dtype="fp32", mixed_precision="no", adapter_dtype="fp32")
    return workload, TrainingSetup(method=method, precision=precision, micro_batch_size=rows, **fields)


def replayed(spec: Any, workload: Any, setup: Any) -> Any:
    """What the model's program says, at its full depth."""
    from vramplan.planner.memory.replay import At, Replay
    from vramplan.planner.memory.structure import layer_kinds, program_key, replay_values
    from vramplan.planner.trace.build import build_program

    key = program_key(spec, workload, setup, "cpu", None)
    program = build_program(key)
    at = At(replay_values(spec, workload, setup), layer_kinds(spec, setup.method), 1)
    return key, Replay(program, at).run()


def real_step(spec: Any, key: Any, workload: Any, setup: Any) -> Any:
    """The real model, and the peaks and end of its real step."""
    from vramplan.planner.memory.structure import replay_values
    from vramplan.planner.trace import real
    from vramplan.planner.trace.record import Case

    case = Case(
        spec.config,
        key.mode,
        setup.micro_batch_size,
        workload.sequence_length,
        getattr(setup.method, "r", 1),
        num_labels=workload.num_labels,
        target=workload.target_length,
        method_sizes=replay_values(spec, workload, setup),
        trainable_blocks=getattr(setup.method, "trainable_blocks", None),
    )
    model = real.real_model(case)
    return model, real.real_step(model, case)


def assert_exact(config: dict[str, Any], task: str, method: Any, **setup_fields: Any) -> None:
    """The program gives the bytes of the real step, and the count those of the real model."""
    from vramplan.planner.memory.static import count_static, total_bytes

    spec = spec_of(config, task)
    workload, setup = question_of(spec, task, method, **setup_fields)
    key, found = replayed(spec, workload, setup)
    model, (peaks, end) = real_step(spec, key, workload, setup)
    static = count_static(spec, setup)
    held = {id(p): p.numel() * p.element_size() for p in model.parameters()}
    got = {id(p): p.numel() * p.element_size() for p in model.parameters() if p.grad is not None}
    assert total_bytes(static.trainable, 1) == sum(got.values())
    if key.mode.quant is None:
        assert total_bytes(static.weights, 1) + total_bytes(static.adapter, 1) == sum(held.values())
    assert {phase: peak.total_bytes for phase, peak in found.peaks.items()} == peaks
    assert found.end_bytes == end
