"""Plan files: what is written is read back, and nothing else is."""

import hashlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import NOW, make_candidate, make_device, make_model_spec, make_plan, make_report
from vramplan.planner.adapters.plan_files import MAX_PLAN_BYTES, read_plan, read_report, write_plan
from vramplan.planner.errors import CorruptPlanError, ExitCode, PlanError, PlanFormatError, UsageError
from vramplan.planner.methods import Full, Lora, Qlora
from vramplan.planner.plan_hash import canonical_json, fingerprint_of
from vramplan.planner.training_setup import TrainingRecipe, TrainingSetup


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    write_plan(make_plan(), path)
    return path


METHODS = st.one_of(
    st.just(Full()),
    st.builds(Lora, r=st.integers(1, 512), lora_dropout=st.floats(0, 0.99), use_dora=st.booleans()),
    st.builds(
        Qlora,
        quant=st.sampled_from(["nf4", "fp4"]),
        target_modules=st.lists(st.text(min_size=1), min_size=1).map(tuple),
    ),
)
RECIPES = st.builds(
    TrainingRecipe,
    learning_rate=st.floats(min_value=1e-9, max_value=10, allow_nan=False),
    max_steps=st.none() | st.integers(1, 10**9),
    output_dir=st.text(),
)


@settings(max_examples=50, deadline=None)
@given(method=METHODS, recipe=RECIPES, micro_batch_size=st.integers(1, 2**20))
def test_any_plan_is_read_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, method: Any, recipe: TrainingRecipe, micro_batch_size: int
) -> None:
    setup = TrainingSetup(method=method, micro_batch_size=micro_batch_size)
    plan = make_plan(candidate=make_candidate(setup=setup, device=make_device()), recipe=recipe)
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    write_plan(plan, path)
    assert read_plan(path) == plan


def test_the_file_is_readable_json_that_names_its_format_first(written: Path) -> None:
    text = written.read_text()
    assert text.startswith('{\n  "plan_format": 1,\n  "file_sha256": "')
    assert text.endswith("}\n")


def test_the_file_hash_can_be_recomputed_with_nothing_but_json_and_sha256(written: Path) -> None:
    content = json.loads(written.read_text())
    stated = content.pop("file_sha256")
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(canonical.encode()).hexdigest() == stated


def test_a_file_with_any_one_byte_changed_is_refused(written: Path) -> None:
    raw = written.read_bytes()
    for position in range(0, len(raw), 7):
        for new in (b"0", b" ", b"}"):
            changed = raw[:position] + new + raw[position + 1 :]
            if changed == raw:
                continue
            written.write_bytes(changed)
            with pytest.raises(PlanError) as caught:
                read_plan(written)
            assert caught.value.exit_code == ExitCode.REFUSED


def test_a_truncated_file_is_refused(written: Path) -> None:
    raw = written.read_bytes()
    for length in range(0, len(raw), 97):
        written.write_bytes(raw[:length])
        with pytest.raises(CorruptPlanError):
            read_plan(written)


def test_a_value_changed_with_its_file_hash_recomputed_is_refused_by_the_fingerprint(written: Path) -> None:
    content = json.loads(written.read_text())
    content["setup"]["micro_batch_size"] = 64
    del content["file_sha256"]
    hashed = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    forged = {"plan_format": 1, "file_sha256": hashed} | content
    written.write_text(json.dumps(forged, indent=2) + "\n")
    with pytest.raises(CorruptPlanError, match="fingerprint"):
        read_plan(written)


def test_another_format_is_refused_before_anything_else_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"plan_format": 2, "what": "nobody knows yet"}')
    with pytest.raises(PlanFormatError, match="plan format 2; this vramplan reads format 1"):
        read_plan(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not JSON"),
        ("[]", "has no plan_format"),
        ("{}", "has no plan_format"),
        ('{"plan_format": NaN}', "NaN is not a number"),
        ('{"plan_format": 1, "x": Infinity}', "Infinity is not a number"),
        ('{"plan_format": 1, "x": ' + "[" * 100_000, "nested too deep"),
        ('{"plan_format": 1, "x": ' + "9" * 10_000 + "}", "is not JSON"),
        ("\x00\xff", "is not JSON"),
    ],
)
def test_what_is_not_a_plan_is_refused_with_its_reason(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptPlanError, match=why):
        read_plan(path)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with path.open("wb") as file:
        file.truncate(MAX_PLAN_BYTES * 100)
    with pytest.raises(CorruptPlanError, match="larger than 4 MiB"):
        read_plan(path)


def test_a_missing_file_is_a_usage_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist") as caught:
        read_plan(tmp_path / "none.json")
    assert caught.value.remedy is not None


def test_a_plan_is_never_overwritten_unasked(written: Path) -> None:
    before = written.read_bytes()
    other = make_plan(recipe=TrainingRecipe(seed=7))
    with pytest.raises(UsageError, match="exists already"):
        write_plan(other, written)
    assert written.read_bytes() == before
    write_plan(other, written, overwrite=True)
    assert read_plan(written) == other


def test_a_place_that_cannot_be_written_is_said_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        write_plan(make_plan(), tmp_path / "file" / "plan.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_fingerprint_ignores_readings_and_keeps_choices() -> None:
    base = make_plan()
    moved = make_plan(
        device=make_device(uuid="GPU-else", free_bytes=10**10, index=3, driver_version="600", read_at=None)
    )
    assert moved.fingerprint == base.fingerprint
    later = base.model_copy(update={"created_at": NOW + timedelta(days=9), "tool_version": "9.9"})
    assert fingerprint_of(later.model_dump(mode="json")) == base.fingerprint
    assert make_plan(recipe=TrainingRecipe(seed=1)).fingerprint != make_plan(recipe=TrainingRecipe(seed=2)).fingerprint
    assert make_plan(device=make_device(name="RTX 3090", profile=None)).fingerprint != base.fingerprint


def test_the_model_config_is_pinned_by_its_canonical_hash() -> None:
    spec = make_model_spec(config={"b": 1, "a": 2})
    # printf '{"a":2,"b":1}' | sha256sum
    assert make_plan(model=spec).model.config_sha256 == (
        "d3626ac30a87e6f7a6428233b3c68299976865fa5508e4267c5415c76af7a772"
    )


def test_a_report_is_read_back(tmp_path: Path) -> None:
    report = make_report()
    path = tmp_path / "report.json"
    path.write_text(report.model_dump_json())
    assert read_report(path) == report
    path.write_text("{}")
    with pytest.raises(UsageError, match="is not a run report"):
        read_report(path)
