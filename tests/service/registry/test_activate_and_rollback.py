"""Registry: activate and roll back weights."""

import pytest

from service.problems import ProblemError
from tests.support.weights import INVALID, faults, served, settle


def test_activate_loads_a_file_without_a_scan(registry, file, folder, save_tiny, digest):
    save_tiny(file, seed=1)
    save_tiny(folder / "scans.safetensors", seed=2)

    registry.activate("photo")
    registry.activate("scans")

    assert served(registry) == {"photo": digest(1), "scans": digest(2)}


@pytest.mark.parametrize(("write", "reason"), INVALID)
def test_activate_refuses_an_invalid_file_with_the_reason(write, reason, registry, file, save_tiny, digest):
    write(file, save_tiny)

    with pytest.raises(ProblemError, match=r"^photo\.safetensors: ") as refused:
        registry.activate("photo")

    assert reason in str(refused.value)
    assert served(registry) == {"photo": digest(0)}
    assert reason in faults(registry)["photo.safetensors"]


@pytest.mark.parametrize("name", ["films", "../photo", "photo.safetensors", "", ".", "/etc/passwd", "auto"])
def test_only_files_of_the_folder_can_be_activated(name, registry, folder, save_tiny):
    save_tiny(folder.parent / "outside.safetensors")

    with pytest.raises(ProblemError, match=r"Its models are: photo\.$"):
        registry.activate(name)
    with pytest.raises(ProblemError):
        registry.activate("../outside")


def test_a_rollback_can_be_undone(registry, file, save_tiny, digest):
    save_tiny(file, seed=1)
    registry.activate("photo")

    registry.roll_back("photo")
    assert served(registry) == {"photo": digest(0)}
    assert registry.models.history("photo")["previous"] == {"photo": digest(1)}

    registry.roll_back("photo")
    assert served(registry) == {"photo": digest(1)}


def test_a_rollback_lasts_until_the_file_changes(registry, file, save_tiny, digest):
    save_tiny(file, seed=1)
    settle(registry)
    registry.roll_back("photo")

    file.touch()
    settle(registry)
    assert served(registry) == {"photo": digest(0)}

    save_tiny(file, seed=2)
    settle(registry)
    assert served(registry) == {"photo": digest(2)}
    assert registry.models.history("photo")["previous"] == {"photo": digest(0)}


def test_activate_undoes_a_rollback(registry, file, save_tiny, digest):
    save_tiny(file, seed=1)
    registry.activate("photo")
    registry.roll_back("photo")

    registry.activate("photo")

    assert served(registry) == {"photo": digest(1)}
    assert registry.models.history("photo")["previous"] == {"photo": digest(0)}


def test_activating_served_weights_keeps_the_previous_ones(registry, file, save_tiny, digest):
    save_tiny(file, seed=1)
    registry.activate("photo")
    registry.activate("photo")

    assert registry.models.history("photo")["previous"] == {"photo": digest(0)}


def test_a_rollback_needs_previous_weights(registry):
    with pytest.raises(ProblemError, match="'photo'"):
        registry.roll_back("photo")
    with pytest.raises(ProblemError, match="Available: photo"):
        registry.roll_back("films")
