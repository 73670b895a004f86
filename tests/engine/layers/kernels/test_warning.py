"""What a program that starts says of missing kernels."""

import pytest

from engine.layers import kernels


@pytest.fixture(autouse=True)
def plain(monkeypatch, tmp_path):
    """No library was found, which nobody asked for."""
    monkeypatch.delenv(kernels.SETTING, raising=False)
    monkeypatch.setattr(kernels, "chosen", lambda: None)
    monkeypatch.setattr(kernels, "LIBRARIES", tmp_path)


def test_missing_kernels_are_told_with_the_cure(monkeypatch):
    monkeypatch.setattr(kernels, "runnable", lambda: ("avx2",))

    told = kernels.warning()

    assert "no compiled kernels were found" in told
    assert "install a C compiler, then install denoise again" in told


def test_kernels_of_other_sources_are_told_apart_from_missing_ones(monkeypatch):
    monkeypatch.setattr(kernels, "runnable", lambda: ("avx2",))
    (kernels.LIBRARIES / f"avx2{kernels.SUFFIX}").write_bytes(b"")

    told = kernels.warning()

    assert "the compiled kernels are of another version" in told
    assert "install denoise again" in told


def test_a_processor_without_kernels_is_not_told_to_install_a_compiler(monkeypatch):
    monkeypatch.setattr(kernels, "runnable", lambda: ())

    assert kernels.warning().startswith("there are no kernels for this processor; ")


def test_who_asked_for_the_plain_path_is_not_warned(monkeypatch):
    monkeypatch.setenv(kernels.SETTING, kernels.PLAIN)

    assert kernels.warning() is None


def test_kernels_that_run_are_no_reason_to_warn(monkeypatch):
    monkeypatch.setattr(kernels, "chosen", lambda: object())

    assert kernels.warning() is None
