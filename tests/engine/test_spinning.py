"""Spinning of torch's threads after their work: its length must be set before torch is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Tells the setting at the moment when something asks for torch.
WATCH = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))

sys.meta_path.insert(0, Watch())
import {module}
"""


def told(module, **settings):
    """What the setting is when a module imports torch."""
    environment = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", *settings)}
    ended = subprocess.run(
        [sys.executable, "-c", WATCH.format(module=module)],
        cwd=ROOT, env={**environment, **settings}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return ended.stdout.split()


@pytest.mark.parametrize("module", ["engine.layers", "engine.job", "service.app", "tests.bench.step"])
def test_torch_is_imported_after_its_threads_were_told_to_stop_soon(module):
    assert told(module) == ["2000"]


@pytest.mark.parametrize(
    ("settings", "wanted"), [({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_who_has_set_it_is_not_overruled(settings, wanted):
    assert told("engine.layers", **settings) == [wanted]
