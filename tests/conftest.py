"""What every test may rely on: tests that need an absent extra or device are skipped, caches are never a person's."""

import atexit
import datetime
import importlib.util
import os
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

# Time is never a reason to fail here: tests share the machine with each other.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
# For trials where only whether a test fails matters: the same few examples each time, and none made smaller.
settings.register_profile(
    "trial",
    settings.get_profile("untimed"),
    derandomize=True,
    max_examples=25,
    phases=[Phase.explicit, Phase.generate],
)

_TRAIN_PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets")
_CACHES = tempfile.TemporaryDirectory(prefix="vramplan-tests-")
atexit.register(_CACHES.cleanup)

# Before any import of the package: platformdirs and huggingface_hub read these once. Children inherit them.
for _variable in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "HF_HOME"):
    os.environ[_variable] = str(Path(_CACHES.name) / _variable.lower())


def _missing_train_package() -> str | None:
    return next((name for name in _TRAIN_PACKAGES if importlib.util.find_spec(name) is None), None)


def _cuda_is_available() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch

        return torch.cuda.is_available()


_SAMPLED = {
    "test_architectures": 12,
    "test_tasks": 8,
    "test_method_steps": 8,
    "test_loops": 5,
    "test_phases": 4,
    "test_packing": 2,
    "test_lora_variants": 6,
    "test_flash_attention": 2,
    "test_layerwise_steps": 2,
    "test_sharded_steps": 5,
    "test_real_steps": 4,
    "test_reality": 4,
    "test_flops": 6,
    "test_methods": 8,
    "test_task_runs": 60,
    "test_matrix_runs": 90,
    "test_exported_runs": 7,
    "test_exported_ranks": 8,
    "test_pauses": 12,
    "test_no_hollow_options": 20,
    "test_faults": 9,
    "test_last_blocks": 5,
    "test_two_stage_runs": 16,
    "test_promises": 6,
    "test_training": 5,
    "test_merge": 4,
    "test_chat": 4,
    "test_evaluate": 6,
    "test_ranks": 32,
    "test_real_run": 8,
    "test_real_chat": 24,
    "test_a_plan_of_two_stages_is_run_to_its_end": 30,
    "test_cli": 2,
    "test_a_model_is_sized_and_its_plan_saved_in_a_browser_and_run_only_where_that_is_allowed": 4,
    "test_a_server_that_ends_takes_the_apps_of_its_pages_along": 3,
    "test_a_run_that_a_page_has_started_ends_with_the_page": 25,
    "test_measure": 3,
    "test_trace_check": 3,
    "test_two_stages": 2,
    "test_a_few_steps_say_that_the_run_may_start": 4,
    "test_a_worker_nobody_watches_ends_itself": 3,
    "test_ctrl_c_ends_a_run_after_its_step_with_a_checkpoint": 3,
    "test_shipped_programs": 3,
    "test_optimizer_steps": 3,
    "test_bottleneck": 2,
    "test_folder_model": 2,
    "test_what_layers_of_a_kind_share_is_freed_once_at_any_depth": 3,
    "test_a_llama_plan_with_lora_on_q_and_v": 3,
    "test_lora_and_qlora_keep_the_same_per_token_on_equal_dtypes": 3,
    "test_a_trainer_that_draws_its_rows_is_priced_in_orders_of_chance": 2,
    "test_trls_loop_holds_what_was_recorded": 4,
    "test_a_result_is_what_the_estimate_says_today": 4,
    "test_adapters_are_sharded_with_the_layers_they_sit_on": 3,
    "test_from_the_first_screen_to_a_finished_run": 3,
    "test_the_answer_is_the_one_that_pricing_every_setup_gives_in_200_seeded_cases": 4,
    "test_screens": 4,
    "test_every_action_of_the_table_can_be_taken_where_it_is_offered": 8,
    "test_every_option_prices_anew_at_once": 6,
    "test_a_run_is_watched_through_a_change_of_the_terminals_size": 3,
    "test_newcomer": 3,
    "test_looks": 2,
    "test_each_further_option_of_the_command_line_prices_anew_at_once": 4,
    "test_the_app_takes_the_demo_model_from_its_choice_to_a_finished_run": 30,
}
"""Modules of many runs that take seconds each, and a test of minutes: one of so many is run, others each day; ``--all``
runs every one, ``--days`` those of several days."""
_BY_TURNS = ("test_demo", "test_exported_ranks", "test_exported_runs", "test_pauses", "test_real_chat", "test_real_run")
"""Modules that go the whole line with real runs, a minute or two each: one of them a day."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run every test, not a day's sample of the slow modules")
    parser.addoption("--days", type=int, default=1, help="run the samples of so many days")


def _todays(items: list[pytest.Item], days: int) -> list[pytest.Item]:
    """Without what is not in the samples of these days, today the first."""
    kept = []
    seen: dict[str, int] = {}
    today = datetime.date.today().toordinal()
    for item in items:
        stem = item.path.stem
        if stem in _BY_TURNS and (_BY_TURNS.index(stem) - today) % len(_BY_TURNS) >= days:
            continue
        name = getattr(item, "originalname", item.name)
        name = name if name in _SAMPLED else stem
        every = _SAMPLED.get(name, 1)
        # what has its turn on one day of several counts its turns: else some tests would have none, ever
        first = today // len(_BY_TURNS) if stem in _BY_TURNS else today
        number = seen[name] = seen.get(name, first) + 1
        if -number % every < days:
            kept.append(item)
    return kept


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    named = any("::" in argument or argument.endswith(".py") for argument in config.args)
    if not named and not config.getoption("--all"):
        items[:] = _todays(items, config.getoption("--days"))
    missing = _missing_train_package()
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if missing is not None:
        for item in items:
            if item.get_closest_marker("train"):
                item.add_marker(pytest.mark.skip(reason=f"needs the train extra ({missing} is not installed)"))
    if on_gpu and not _cuda_is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
