"""Settings: defaults, bounds, and the table in service/README.md."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings, unknown_variables

README = Path(__file__).parents[2] / "service" / "README.md"


def rows():
    """The table of settings, made from the code. Run this module to print it."""
    yield "| Variable | Default | |"
    yield "| --- | --- | --- |"
    for name, field in Settings.model_fields.items():
        default = "not set" if field.default is None else f"`{field.default}`"
        yield f"| `DENOISE_{name.upper()}` | {default} | {field.description} |"


def test_the_readme_lists_every_setting():
    listed = [line for line in README.read_text().splitlines() if line.startswith("| `DENOISE_")]

    assert listed == list(rows())[2:]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_description_is_one_sentence(name):
    description = Settings.model_fields[name].description

    assert description.endswith(".")
    assert ". " not in description
    assert description[0].isupper()


def test_settings_come_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DENOISE_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("DENOISE_MAX_PIXELS", "123")
    monkeypatch.setenv("DENOISE_THREADS", "")

    settings = Settings()

    assert settings.weights == tmp_path
    assert settings.max_pixels == 123
    assert settings.threads is None


def test_a_flag_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("DENOISE_MAX_BYTES", "123")

    assert Settings(max_bytes=456).max_bytes == 456


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_bytes", "0"),
        ("max_pixels", "many"),
        ("decode_seconds", "0"),
        ("decode_memory", "1000"),
        ("memory_budget", "1000"),
        ("image_memory", "1000"),
        ("deadline", "-1"),
        # Too little for one body of max_bytes.
        ("body_memory", "80000000"),
        ("png_level", "10"),
        ("threads", "0"),
        ("device", "gpu"),
        ("precision", "float16"),
        ("open", "perhaps"),
        ("key_rate", "0"),
        ("key_pixels", "-1"),
        ("cors_origins", "*"),
        ("cors_origins", "https://images.example/"),
        ("cors_origins", "https://images.example,images.example"),
        ("proxies", "*"),
        ("proxies", "192.0.2.7,proxy"),
        ("proxies", "192.0.2.7/24"),
        ("root_path", "/"),
        ("root_path", "denoise"),
        ("root_path", "/denoise/"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_its_name(name, value, monkeypatch):
    monkeypatch.setenv(f"DENOISE_{name.upper()}", value)

    with pytest.raises(ValidationError, match=name):
        Settings()


def test_mistyped_variables_are_named_with_the_nearest_setting():
    known = {"DENOISE_MAX_PAGES": "3", "DENOISE_KERNELS": "plain", "HOME": "/", "DENOISE_PORT_8000_TCP": "tcp://"}

    assert unknown_variables(known) == []
    assert unknown_variables({**known, "DENOISE_MAX_PIXEL": "3"}) == [
        "DENOISE_MAX_PIXEL is no setting, so it is ignored. Did you mean DENOISE_MAX_PIXELS?"
    ]


if __name__ == "__main__":
    print(*rows(), sep="\n")
