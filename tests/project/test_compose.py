"""The compose file, compared with the Dockerfile, the settings and the command line it uses."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from service import cli
from service.settings import Settings, variable

ROOT = Path(__file__).parents[2]
FILE = ROOT / "service" / "deploy" / "compose.yaml"
COMPOSE = yaml.safe_load(FILE.read_text("utf-8"))
SERVICES = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
# How long the service may take to abort requests once the grace time is over, in seconds.
ABORT_SECONDS = 10
# Memory of the service without images; see "Memory and disk" in service/README.md.
PROGRAM_BYTES = 1_100_000_000


def mounts(service):
    """The paths of a service's volumes, by the volumes' names."""
    return dict(volume.split(":")[:2] for volume in service["volumes"])


def test_the_image_is_built_from_the_dockerfile():
    build = SERVICES["denoise"]["build"]

    assert (FILE.parent / build["context"]).resolve() == ROOT
    assert all(f"ARG {name}\n" in DOCKERFILE for name in build["args"])
    assert {service["image"] for service in SERVICES.values()} == {"denoise"}


@pytest.mark.parametrize("name", SERVICES)
def test_the_environment_holds_settings_with_valid_values(name, monkeypatch):
    settings = {variable(field): field for field in Settings.model_fields}
    environment = SERVICES[name]["environment"]

    assert set(environment) <= set(settings)
    Settings(**{settings[name]: value for name, value in environment.items()})


@pytest.mark.parametrize("name", SERVICES)
def test_each_volume_has_a_folder_in_the_image(name):
    folders = re.search(r"install --directory .* --mode 700 (.*) *\\?$", DOCKERFILE, re.MULTILINE)[1].split()

    assert set(mounts(SERVICES[name]).values()) <= set(folders)
    assert set(mounts(SERVICES[name])) <= set(COMPOSE["volumes"])


def test_keys_are_written_where_the_service_reads_them():
    denoise, keys = SERVICES["denoise"], SERVICES["keys"]

    assert denoise["environment"]["DENOISE_KEYS_FILE"] == keys["environment"]["DENOISE_KEYS_FILE"]
    assert mounts(denoise)["keys"] == mounts(keys)["keys"]
    # A folder is mounted, not the file: see service/README.md.
    assert keys["environment"]["DENOISE_KEYS_FILE"].startswith(mounts(keys)["keys"] + "/")


@pytest.mark.parametrize("words", [["list"], ["add", "scanner"], ["revoke", "scanner"]])
def test_the_command_of_the_keys_exists(words, monkeypatch):
    monkeypatch.setenv("DENOISE_KEYS_FILE", "/keys/keys")
    program, group, *rest = SERVICES["keys"]["entrypoint"]
    commands = typer.main.get_command(cli.app).commands[group].commands

    assert (program, rest) == ("denoise", [])
    assert commands[words[0]].make_context(words[0], words[1:])
    assert SERVICES["keys"]["command"] == ["list"]


def test_the_port_is_the_services_and_open_to_this_machine_only():
    host, _, inside = SERVICES["denoise"]["ports"][0].split(":")

    assert host == "127.0.0.1"
    assert f"EXPOSE {inside}\n" in DOCKERFILE


def test_the_service_has_time_to_stop():
    seconds = int(re.fullmatch(r"(\d+)s", SERVICES["denoise"]["stop_grace_period"])[1])

    assert seconds > Settings().grace_seconds + ABORT_SECONDS


def test_every_memory_limit_holds_what_the_service_takes():
    settings, readme = Settings(), (FILE.parents[1] / "README.md").read_text("utf-8")
    parts = ("memory_budget", "image_memory", "body_memory", "view_memory", "cache_bytes")
    most = PROGRAM_BYTES + sum(getattr(settings, part) for part in parts) + 2 * settings.max_bytes
    limits = [SERVICES["denoise"]["mem_limit"], *re.findall(r"--memory (\S+)|MemoryMax=(\S+)", readme)]

    assert len(limits) == 3
    assert all(int("".join(limit).lower().removesuffix("g")) * 2**30 > most for limit in limits)


def test_docker_accepts_the_file_where_it_is_installed():
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("there is no docker compose on this machine")

    checked = subprocess.run(
        [docker, "compose", "-f", FILE, "--profile", "*", "config", "--quiet"], capture_output=True, text=True
    )

    assert checked.returncode == 0, checked.stderr
