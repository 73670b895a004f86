"""Refusals by a limit name the setting that an operator can change."""

import re

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from engine.imageio.sandbox.decoder import TooLargeToDecode, TooSlowToDecode
from service.app import create_app
from service.problems import ENGINE_LIMITS, problem_of
from service.settings import Settings, variable
from tests.support.problems import assert_problem


@pytest.fixture(scope="module")
def asked(settings, tmp_path_factory, file_of):
    """asked(path, **request): the answer of a service with small limits."""
    limits = {
        "max_pages": 2,
        "max_batch_files": 2,
        "max_batch_bytes": 30_000,
        "image_memory": 2**24,
        "max_pixels": 2_000_000,
        "spool": tmp_path_factory.mktemp("spool"),
    }
    with TestClient(create_app(settings.model_copy(update=limits))) as client:
        yield client.post


def images(count, size=1):
    return [("image", ("a.png", bytes(size))) for _ in range(count)]


def frames(file_of, count):
    made = [Image.new("RGB", (2, 2), (number, 0, 0)) for number in range(count)]
    return file_of(made[0], "GIF", save_all=True, append_images=made[1:])


@pytest.mark.parametrize(
    ("path", "sent", "setting"),
    [
        ("/denoise", {"content": bytes(20_001)}, "max_bytes"),
        ("/denoise/batch", {"content": bytes(30_001)}, "max_batch_bytes"),
        ("/denoise/batch", {"files": images(3)}, "max_batch_files"),
        ("/jobs", {"content": bytes(30_001)}, "max_batch_bytes"),
        ("/jobs", {"content": bytes(20_001)}, "max_bytes"),
        ("/jobs", {"files": images(3)}, "max_batch_files"),
    ],
)
def test_too_many_bytes_or_files_name_their_setting(path, sent, setting, asked):
    assert_problem(asked(path, **sent), 413, f"The limit is the setting {variable(setting)}.")


@pytest.mark.parametrize(
    ("make", "setting", "paths"),
    [
        (
            lambda file_of: file_of(Image.new("1", (2000, 1001))),
            "max_pixels",
            ["/denoise", "/estimate", "/preview"],
        ),
        (lambda file_of: file_of(Image.new("1", (1000, 1000))), "image_memory", ["/denoise", "/preview"]),
        (lambda file_of: frames(file_of, 3), "max_pages", ["/denoise"]),
    ],
)
def test_an_image_too_large_names_its_setting(make, setting, paths, asked, file_of):
    for path in paths:
        refused = asked(path, content=make(file_of))
        assert_problem(refused, 413, f"The limit is the setting {variable(setting)}.")


@pytest.mark.parametrize(
    ("error", "setting"),
    [(TooLargeToDecode("Large."), "decode_memory"), (TooSlowToDecode("Slow."), "decode_seconds")],
)
def test_a_file_hard_to_decode_names_its_setting(error, setting):
    assert problem_of(error).problem.detail == f"{error} The limit is the setting {variable(setting)}."


def test_a_stack_too_long_names_the_command_that_takes_it(asked, file_of):
    refused = asked("/denoise", content=frames(file_of, 3))

    assert_problem(refused, 413, "The command `denoise run FILE` has no such limit.")


def test_an_image_after_its_deadline_names_the_setting(settings, noisy):
    with TestClient(create_app(settings.model_copy(update={"deadline": 1e-6}))) as client:
        assert_problem(client.post("/denoise", content=noisy), 504, "The limit is the setting DENOISE_DEADLINE.")


def test_every_setting_that_is_named_exists():
    assert {*ENGINE_LIMITS.values()} <= set(Settings.model_fields)
    assert re.fullmatch("DENOISE_[A-Z_]+", variable("max_bytes"))
