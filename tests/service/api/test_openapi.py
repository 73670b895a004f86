"""The OpenAPI description, tested by schemathesis with valid and invalid requests."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.auth.api_keys import add_key
from tests.support.served import serving

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "10")  # for each operation, besides its bounds
HOOKS = Path(__file__).parents[2] / "support" / "openapi_hooks.py"
METHODS = {"get", "put", "post", "delete", "patch"}


@pytest.fixture(scope="module")
def asked(tmp_path_factory, save_tiny):
    """run: of schemathesis; described: every operation as (method, path); answered: (method, route, status)."""
    folder, cache = tmp_path_factory.mktemp("weights"), tmp_path_factory.mktemp("schemathesis")
    # Elsewhere: a route may replace those in the folder.
    weights = save_tiny(cache / "photo.safetensors")
    save_tiny(folder / "photo.safetensors")
    key = add_key(folder / "keys.json", "schemathesis", admin=True)
    # At this level health checks are logged too. The spool enables jobs.
    flags = ("--log-level", "debug", "--keys-file", folder / "keys.json", "--spool", folder / "spool")
    with serving(folder, *flags) as server:
        paths = json.loads(server.ask("GET /openapi.json")[2])["paths"]
        address = f"http://127.0.0.1:{server.port}/openapi.json"
        run = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", address, "--checks", "all", "--mode", "all"),
                *("--max-examples", EXAMPLES, "--seed", "1", "--workers", "1", "--request-timeout", "60"),
                *("--header", f"Authorization: Bearer {key}", "--continue-on-failure", "--no-color"),
            ],
            capture_output=True,
            text=True,
            cwd=cache,
            env={**os.environ, "SCHEMATHESIS_HOOKS": str(HOOKS), "OPENAPI_WEIGHTS": str(weights)},
        )
        server.stop()
        server.wait_for("stopped")
    return SimpleNamespace(
        run=run,
        described={(method.upper(), path) for path, item in paths.items() for method in METHODS & set(item)},
        answered={(line["method"], line["route"], line["status"]) for line in server.log if "status" in line},
    )


def test_every_operation_answers_as_described(asked):
    assert asked.run.returncode == 0, asked.run.stdout + asked.run.stderr
    assert f"Tested: {len(asked.described)}\n" in asked.run.stdout


def test_every_operation_was_called_successfully(asked):
    succeeded = {(method, route) for method, route, status in asked.answered if status < 300}

    # Paths with an ID need an object that exists.
    assert succeeded >= {(method, path) for method, path in asked.described if "{" not in path}
