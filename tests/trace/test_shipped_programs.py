"""What ships is what these libraries do: a sample, another one each day, is traced again."""

import pytest

pytestmark = pytest.mark.train


@pytest.mark.filterwarnings("ignore")
def test_a_program_that_ships_is_what_tracing_gives_today() -> None:
    import importlib.resources
    from pathlib import Path

    from vramplan.planner.adapters.programs import find_program, newer_libraries
    from vramplan.planner.trace import build_set

    _, key = next(build_set.grid_keys())
    if newer_libraries(find_program(key).program):
        pytest.skip("other library versions are installed than the programs were traced with")
    shipped = Path(str(importlib.resources.files("vramplan.planner.programs"))) / "programs.zip"
    assert build_set.check(shipped, 2) == 0
