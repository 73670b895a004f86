"""The warning at the start of a program without kernels."""

import pytest

from engine.layers import kernels


@pytest.fixture(autouse=True)
def plain(monkeypatch, tmp_path):
    """No library is found, and DENOISE_KERNELS is not set."""
    monkeypatch.delenv(kernels.SETTING, raising=False)
    monkeypatch.setattr(kernels, "chosen", lambda: None)
    monkeypatch.setattr(kernels, "LIBRARIES", tmp_path)


def test_missing_kernels_are_reported_with_the_remedy(monkeypatch):
    monkeypatch.setattr(kernels, "runnable", lambda: ("avx2",))

    message = kernels.warning()

    assert "no compiled kernels were found" in message
    assert "install a C compiler, then install denoise again" in message


def test_kernels_of_another_version_have_their_own_warning(monkeypatch):
    monkeypatch.setattr(kernels, "runnable", lambda: ("avx2",))
    (kernels.LIBRARIES / f"avx2{kernels.SUFFIX}").write_bytes(b"")

    message = kernels.warning()

    assert "the compiled kernels are of another version" in message
    assert "install denoise again" in message


def test_an_unsupported_processor_gets_no_advice_on_compilers(monkeypatch):
    monkeypatch.setattr(kernels, "runnable", lambda: ())

    assert kernels.warning().startswith("there are no kernels for this processor; ")


def test_the_plain_path_by_choice_gives_no_warning(monkeypatch):
    monkeypatch.setenv(kernels.SETTING, kernels.PLAIN)

    assert kernels.warning() is None


def test_kernels_that_run_give_no_warning(monkeypatch):
    monkeypatch.setattr(kernels, "chosen", lambda: object())

    assert kernels.warning() is None
