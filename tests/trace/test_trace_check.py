"""The check of what ships finds a planted difference of one size, in a child process, and only there."""

import dataclasses
import importlib.resources
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.train


def test_a_planted_difference_is_found(tmp_path: Path) -> None:
    from vramplan.planner.adapters.programs import newer_libraries
    from vramplan.planner.adapters.tracing import check_shipped
    from vramplan.planner.programs.codec import dump_program, load_program
    from vramplan.planner.trace.build_set import todays

    ((_, key),) = todays(1)
    name = f"{key.digest()}.json"
    shipped = Path(str(importlib.resources.files("vramplan.planner.programs"))) / "programs.zip"
    with zipfile.ZipFile(shipped) as archive:
        if name not in archive.namelist():
            pytest.skip("the program is not built yet")
        program = load_program(archive.read(name).decode())
    if newer_libraries(program):
        pytest.skip("other library versions are installed than the programs were traced with")
    planted = tuple(size._replace(coefficient=size.coefficient * 2) for size in program.sizes)
    changed = tmp_path / "programs.zip"
    with zipfile.ZipFile(changed, "w") as archive:
        archive.writestr(name, dump_program(dataclasses.replace(program, sizes=planted)))
    (found,) = check_shipped(1, changed)
    assert not found.same
    assert found.difference_bytes
    assert found.difference_bytes > 0
