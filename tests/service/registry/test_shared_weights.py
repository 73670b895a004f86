"""Registries of several replicas, which serve the same weights."""

import io

import pytest

from engine.models.checkpoint import WeightsError
from service.problems import ProblemError
from service.registry.registry import ModelRegistry
from service.registry.shared_weights import SharedWeights
from service.settings import Settings
from service.storage.away import DatabaseAway
from service.storage.blobs import Blobs
from service.storage.database import Database
from service.storage.storage import Storage
from tests.support.weights import faults, served, settle


@pytest.fixture
def storage(postgres, tmp_path):
    storage = Storage(Database(postgres.new_database()), Blobs((tmp_path / "blobs").as_uri()))
    yield storage
    storage.close()


@pytest.fixture
def replica(tmp_path, save_tiny, storage):
    """replica(name, seed=0): a registry with a folder of its own, which has `photo` of this seed."""

    def start(name, seed=0):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        if seed is not None:
            save_tiny(folder / "photo.safetensors", seed=seed)
        settings = Settings(weights=folder, model="photo", device="cpu", precision="float32")
        return ModelRegistry(settings, SharedWeights(storage))

    return start


def about(registry):
    """(served, wanted, previous) of `photo`."""
    history = registry.models.history("photo")
    return tuple(history[key].get("photo") for key in ("digests", "wanted", "previous"))


def test_an_activated_file_is_served_by_all_replicas(replica, tmp_path, save_tiny, digest):
    a, b = replica("a"), replica("b")
    save_tiny(tmp_path / "a" / "photo.safetensors", seed=1)

    a.activate("photo")
    assert about(a) == (digest(1), digest(1), digest(0))
    assert about(b) == (digest(0), digest(0), None)

    b.refresh()
    assert about(b) == (digest(1), digest(1), digest(0))


def test_weights_that_are_sent_are_served_by_all_replicas(replica, tmp_path, save_tiny, digest):
    a, b = replica("a"), replica("b")
    made = save_tiny(tmp_path / "made.safetensors", seed=1)
    before = sorted((tmp_path / "a").iterdir())

    with made.open("rb") as file:
        a.receive("photo", file)
        a.receive("mine", file)
    b.refresh()

    assert about(a) == about(b) == (digest(1), digest(1), digest(0))
    assert served(b)["mine"] == digest(1)
    assert sorted((tmp_path / "a").iterdir()) == before, "the folder of a replica may not be writable"


def test_unusable_weights_that_are_sent_reach_no_replica(replica, tmp_path, digest):
    a = replica("a")

    with pytest.raises(ProblemError, match="cannot load weights"):
        a.receive("photo", io.BytesIO(b"no tensors"))

    assert about(a) == (digest(0), digest(0), None)
    assert faults(a) == {}


def test_a_rollback_reaches_all_replicas_and_can_be_undone_on_another(replica, tmp_path, save_tiny, digest):
    a, b = replica("a"), replica("b")
    save_tiny(tmp_path / "a" / "photo.safetensors", seed=1)
    a.activate("photo")
    b.refresh()

    b.roll_back("photo")
    a.refresh()
    assert about(a) == about(b) == (digest(0), digest(0), digest(1))

    a.roll_back("photo")
    b.refresh()
    assert about(a) == about(b) == (digest(1), digest(1), digest(0))


def test_a_replica_that_starts_later_serves_the_same_weights(replica, tmp_path, save_tiny, digest):
    a = replica("a")
    save_tiny(tmp_path / "a" / "photo.safetensors", seed=1)
    save_tiny(tmp_path / "a" / "scans.safetensors", seed=2)
    settle(a)

    # Its own folder has the old weights, and lacks `scans`.
    late = replica("late")

    assert served(late) == served(a) == {"photo": digest(1), "scans": digest(2)}
    assert about(late) == (digest(1), digest(1), digest(0))
    late.roll_back("photo")
    assert about(late) == (digest(0), digest(0), digest(1))


def test_a_replica_needs_no_weights_of_its_own(replica, digest):
    replica("a")

    assert served(replica("empty", seed=None)) == {"photo": digest(0)}


def test_the_first_replica_decides_which_weights_a_new_name_has(replica, digest):
    a, b = replica("a", seed=0), replica("b", seed=1)

    settle(b)

    assert served(a) == served(b) == {"photo": digest(0)}
    assert about(b)[2] is None


def test_a_changed_file_is_published_once(replica, tmp_path, save_tiny, digest):
    """As in a folder that all replicas mount."""
    a, b = replica("a"), replica("b")
    for name in ("a", "b"):
        save_tiny(tmp_path / name / "photo.safetensors", seed=1)
    for each in (a, b, a, b):
        each.refresh()

    assert about(a) == about(b) == (digest(1), digest(1), digest(0))

    # The files have not changed since, so they do not undo the rollback.
    a.roll_back("photo")
    settle(b)
    settle(a)
    assert about(a) == about(b) == (digest(0), digest(0), digest(1))


def test_a_rollback_that_another_replica_was_faster_with_is_refused(replica, tmp_path, save_tiny, monkeypatch):
    a, b = replica("a"), replica("b")
    save_tiny(tmp_path / "a" / "photo.safetensors", seed=1)
    a.activate("photo")
    settle(b)
    swap = SharedWeights.swap

    def late(self, name, known):
        monkeypatch.undo()
        b.roll_back("photo")
        return swap(self, name, known)

    monkeypatch.setattr(SharedWeights, "swap", late)

    with pytest.raises(ProblemError, match="Another replica has changed the weights 'photo'") as refused:
        a.roll_back("photo")
    assert refused.value.status == 409
    a.refresh()
    assert about(a) == about(b)


def test_damaged_shared_weights_leave_the_old_ones_in_service(replica, tmp_path, save_tiny, digest, storage):
    a, b = replica("a"), replica("b")
    save_tiny(tmp_path / "a" / "photo.safetensors", seed=1)
    a.activate("photo")
    storage.blobs.put(f"weights/{digest(1)}.safetensors", b"broken")

    b.refresh()

    assert about(b) == (digest(0), digest(1), digest(0))
    assert "is damaged" in faults(b)["photo.safetensors"]
    # It serves them again once the others do too.
    a.roll_back("photo")
    b.refresh()
    assert about(b)[:2] == (digest(0), digest(0))
    assert not faults(b)


def test_missing_shared_weights_are_asked_for_again(replica, tmp_path, save_tiny, digest, storage):
    a, b = replica("a"), replica("b")
    data = save_tiny(tmp_path / "a" / "photo.safetensors", seed=1).read_bytes()
    a.activate("photo")
    blob = f"weights/{digest(1)}.safetensors"
    storage.blobs.delete(blob)

    b.refresh()
    assert "the blob store has no weights/" in faults(b)["photo.safetensors"]

    storage.blobs.put(blob, data)
    b.refresh()
    assert about(b)[0] == digest(1)
    assert not faults(b)


def test_a_replica_that_starts_fills_a_bucket_that_lost_its_weights(replica, digest, storage):
    replica("a")
    storage.blobs.delete(f"weights/{digest(0)}.safetensors")

    replica("b")

    c = replica("c", seed=None)
    assert about(c)[0] == digest(0)
    assert not faults(c)


def test_a_fault_of_shared_weights_ends_with_their_rollback(replica, tmp_path, save_tiny, digest, storage):
    a, b = replica("a"), replica("b")
    save_tiny(tmp_path / "a" / "photo.safetensors", seed=1)
    a.activate("photo")
    storage.blobs.delete(f"weights/{digest(1)}.safetensors")
    b.refresh()
    assert faults(b)

    a.roll_back("photo")
    b.refresh()

    assert not faults(b)


def test_a_replica_does_not_start_with_a_broken_default_model(replica, digest, storage):
    replica("a")
    storage.blobs.put(f"weights/{digest(0)}.safetensors", b"broken")

    with pytest.raises(WeightsError, match=r"photo: shared weights .* is damaged"):
        replica("b", seed=None)


def test_without_the_database_weights_stay_and_changes_are_refused(
    replica, tmp_path, save_tiny, digest, monkeypatch
):
    a = replica("a")
    save_tiny(tmp_path / "a" / "photo.safetensors", seed=1)

    def away(*args):
        raise DatabaseAway

    with monkeypatch.context() as patch:
        patch.setattr(Database, "rows", away)
        settle(a)
        for change in (a.activate, a.roll_back):
            with pytest.raises(DatabaseAway):
                change("photo")
        assert served(a) == {"photo": digest(0)}

    # The changed file is published once the database is back.
    a.refresh()
    assert about(a) == (digest(1), digest(1), digest(0))


def test_a_removed_file_is_still_served_from_the_blobs(replica, tmp_path, digest):
    a = replica("a")
    (tmp_path / "a" / "photo.safetensors").unlink()

    settle(a)

    assert served(a) == {"photo": digest(0)}
    assert not faults(a)
