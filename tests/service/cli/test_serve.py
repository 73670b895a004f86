"""`denoise serve`."""

from types import SimpleNamespace

import pytest

from service.settings import Settings


@pytest.fixture
def served(monkeypatch):
    """The settings and the address that the service was started with."""
    seen = SimpleNamespace(settings=None, host=None, port=None)

    def serve(settings, host, port):
        vars(seen).update(settings=settings, host=host, port=port)

    monkeypatch.setattr("service.server.server.serve", serve)
    return seen


def test_a_flag_wins_over_the_environment(denoise, served, tmp_path, monkeypatch):
    monkeypatch.setenv("DENOISE_MAX_PIXELS", "1000")
    monkeypatch.setenv("DENOISE_MAX_BYTES", "2000")

    code, _, _ = denoise("serve", "--port", 9000, "--weights", tmp_path, "--max-pixels", 300, "--device", "cpu")

    assert code == 0
    assert served.settings.weights == tmp_path
    assert served.settings.device == "cpu"
    assert served.settings.max_pixels == 300
    assert served.settings.max_bytes == 2000
    assert served.settings.model == "auto"
    assert (served.host, served.port) == ("127.0.0.1", 9000)


def test_every_setting_is_a_flag_unless_it_is_secret(denoise):
    _, text, _ = denoise("serve", "--help")

    flags = {name: f"--{name.replace('_', '-')} " for name in Settings.model_fields}
    assert {name for name, flag in flags.items() if flag not in text} == {"keys", "database"}
    # The help wraps lines.
    assert " ".join(Settings.model_fields["max_bytes"].description.split()[:2]) in " ".join(text.split())


def test_a_setting_out_of_bounds_is_refused_by_name(denoise, served):
    code, _, stderr = denoise("serve", "--max-pixels", 0)

    assert code == 1
    assert stderr == (
        "error: DENOISE_MAX_PIXELS or --max-pixels is '0': Input should be greater than or equal to 1\n"
    )
    assert served.settings is None


def test_a_lone_database_is_refused_with_what_is_missing(denoise, served, monkeypatch):
    monkeypatch.setenv("DENOISE_DATABASE", "postgresql://denoise:secret@host/name")

    code, _, stderr = denoise("serve")

    assert code == 1
    assert stderr == (
        "error: DENOISE_BLOBS or --blobs: replicas need both DENOISE_DATABASE and DENOISE_BLOBS, "
        "but DENOISE_BLOBS is not set: set both, or neither\n"
    )


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--keys-file", "DENOISE_KEYS_FILE, or --keys-file. Create it with: denoise keys add NAME --keys-file "),
        ("--spool", "This is the setting DENOISE_SPOOL, or --spool."),
    ],
)
def test_a_path_that_cannot_be_used_names_its_setting(flag, words, denoise, tmp_path, monkeypatch):
    monkeypatch.setattr("service.telemetry.logs.configure", lambda settings: None)
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "below" if flag == "--spool" else tmp_path / "missing"

    code, _, stderr = denoise("serve", "--port", 0, flag, path)

    assert code == 1
    assert stderr.startswith(f"error: {path}")
    assert words in stderr


def test_secret_keys_have_no_flag(denoise):
    code, _, stderr = denoise("serve", "--keys", "web:" + "x" * 40)

    assert code == 2
    assert "No such option" in stderr


def test_a_file_of_plain_keys_is_refused_without_showing_them(denoise, tmp_path, monkeypatch):
    monkeypatch.setattr("service.telemetry.logs.configure", lambda settings: None)
    (tmp_path / "keys").write_text("x" * 40)

    code, _, stderr = denoise("serve", "--port", 0, "--keys-file", tmp_path / "keys")

    assert code == 1
    assert stderr.startswith(f"error: {tmp_path}/keys: ")
    assert "x" * 32 not in stderr
    assert stderr.count("\n") == 1


def test_serve_without_weights_is_an_error_of_one_line(denoise, tmp_path, monkeypatch):
    monkeypatch.setattr("service.telemetry.logs.configure", lambda settings: None)

    code, _, stderr = denoise("serve", "--port", 0, "--weights", tmp_path)

    assert code == 1
    assert stderr.startswith("error: ")
    assert "photo-gaussian.safetensors" in stderr
    assert stderr.count("\n") == 1
