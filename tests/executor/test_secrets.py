"""What a worker writes holds no secret of its environment, whoever says it."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.train
SECRET = "an-odd-token-of-no-shape"
SHAPED = "hf_" + "abcdefghijklmnopqrstuvwxyz012345"
WORKER = f"""
import logging, sys, time
from vramplan.executor.events import Failed, OutOfMemory, Progress
from vramplan.executor.worker import wire
emit = wire()
print("a library prints {SHAPED}")
sys.stderr.write("in two {SECRET[:9]}")
sys.stderr.write("{SECRET[9:]} pieces\\n")
logging.getLogger("library").warning("asked with {SECRET}")
emit(Progress(time=0, what="downloading with {SECRET}"))
emit(Failed(time=0, message="401 for {SHAPED}", remedy="unset {SECRET}",
            out_of_memory=OutOfMemory(time=0, step=1, message="{SECRET}")))
sys.stderr.write("no line end: {SECRET}")
"""


def test_neither_log_nor_events_hold_a_secret_of_the_environment() -> None:
    environment = os.environ | {"HF_TOKEN": SECRET}
    done = subprocess.run(
        [sys.executable, "-P", "-c", WORKER], env=environment, capture_output=True, text=True, check=True
    )
    assert SECRET not in done.stdout + done.stderr
    assert SHAPED not in done.stdout + done.stderr
    assert done.stderr.count("[removed]") == 4
    assert "in two [removed] pieces" in done.stderr
    progress, failed = map(json.loads, done.stdout.splitlines())
    assert (progress["what"], failed["message"]) == ("downloading with [removed]", "401 for [removed]")
    assert failed["out_of_memory"]["message"] == "[removed]"
