"""Registry: new, changed, invalid and removed weights files."""

import errno
import gc
import os
import shutil
import weakref

import pytest
import torch

from engine.inference.denoise import denoise_image
from engine.layers import parameters
from engine.models import checkpoint
from service.registry import registry as module
from service.registry.registry import ModelRegistry
from service.settings import Settings
from tests.support.weights import INVALID, faults, served, settle, truncated


def count_loads(monkeypatch):
    loads, read = [], checkpoint.read
    monkeypatch.setattr(checkpoint, "read", lambda path: loads.append(path.name) or read(path))
    return loads


# Valid files


def test_a_new_file_is_served_after_two_equal_scans(registry, folder, save_tiny, digest):
    save_tiny(folder / "scans.safetensors", seed=1)

    registry.refresh()
    early = served(registry)
    registry.refresh()

    assert early == {"photo": digest(0)}
    assert served(registry) == {"photo": digest(0), "scans": digest(1)}
    assert registry.models.names == ["photo", "scans"]


def test_a_changed_file_is_served_and_the_old_weights_kept(registry, file, save_tiny, digest):
    before = registry.models
    save_tiny(file, seed=1)
    settle(registry)

    after = registry.models
    assert after.history("photo")["digests"] == {"photo": digest(1)}
    assert after.history("photo")["previous"] == {"photo": digest(0)}
    assert after.loaded["photo"] > before.loaded["photo"]
    assert before.history("photo")["digests"] == {"photo": digest(0)}, "whoever took them keeps them"
    assert before.history("photo")["previous"] == {}


def test_a_growing_file_is_not_loaded(registry, file, folder, save_tiny, tmp_path):
    whole = save_tiny(tmp_path / "whole.safetensors", seed=1).read_bytes()
    with (folder / "scans.safetensors").open("wb", buffering=0) as growing:
        for start in range(0, len(whole), 2000):
            growing.write(whole[start : start + 2000])
            registry.refresh()
    assert list(served(registry)) == ["photo"]
    assert not faults(registry)

    registry.refresh()

    assert list(served(registry)) == ["photo", "scans"]


def test_an_unchanged_file_is_not_read_again(registry, monkeypatch):
    loads = count_loads(monkeypatch)

    settle(registry)

    assert loads == []


def test_rewriting_the_same_bytes_changes_nothing(registry, file, save_tiny):
    before = registry.models.by_name["photo"]
    save_tiny(file, seed=0)
    settle(registry)

    assert registry.models.by_name["photo"] is before
    assert not registry.models.previous


def test_auto_is_served_once_all_its_weights_are(registry, folder, save_tiny):
    assert registry.models.names == ["photo"]
    for seed, name in enumerate(("photo-gaussian", "photo-grey"), 1):
        save_tiny(folder / f"{name}.safetensors", seed=seed)
    settle(registry)

    assert registry.models.names == ["auto", "photo", "photo-gaussian", "photo-grey"]
    assert set(registry.models.history("auto")["digests"]) == {"photo", "photo-gaussian", "photo-grey"}


def test_other_files_in_the_folder_are_ignored(registry, folder):
    for name in (
        "mine.checkpoint",
        "mine.jsonl",
        ".mine.safetensors",
        ".mine.safetensors.12ab.part",
        "notes.txt",
    ):
        (folder / name).write_bytes(b"no weights")
    (folder / "folder.safetensors").mkdir()
    os.mkfifo(folder / "pipe.safetensors")
    settle(registry)

    assert list(served(registry)) == ["photo"]
    assert not faults(registry)


def test_other_invalid_files_do_not_stop_the_start(folder, caplog):
    (folder / "bad.safetensors").write_bytes(b"no tensors here")

    registry = ModelRegistry(Settings(weights=folder, model="photo", device="cpu", precision="float32"))

    assert list(served(registry)) == ["photo"]
    assert "cannot load weights" in faults(registry)["bad.safetensors"]
    assert "bad.safetensors" in caplog.text


# Invalid files


@pytest.mark.parametrize(("write", "reason"), INVALID)
def test_an_invalid_file_leaves_the_old_weights_in_service(
    write, reason, registry, file, save_tiny, digest, caplog
):
    write(file, save_tiny)
    settle(registry)

    assert served(registry) == {"photo": digest(0)}
    assert reason in faults(registry)["photo.safetensors"]
    assert str(file.parent) not in faults(registry)["photo.safetensors"]
    assert reason in caplog.text


def test_an_invalid_file_is_not_retried_until_it_changes(registry, file, save_tiny, digest, monkeypatch):
    loads = count_loads(monkeypatch)
    truncated(file, save_tiny)
    for _ in range(5):
        registry.refresh()
    since = registry.models.faults["photo"].since
    assert loads == ["photo.safetensors"]

    save_tiny(file, seed=1)
    registry.refresh()
    assert registry.models.faults["photo"].since == since
    registry.refresh()

    assert served(registry) == {"photo": digest(1)}
    assert not faults(registry)


def fail(monkeypatch, error):
    """Let the read fail. For root, no file is unreadable."""

    def read_bytes(path):
        raise error

    monkeypatch.setattr(module.Path, "read_bytes", read_bytes)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "photo.safetensors"), "Permission denied"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "can't allocate memory"),
    ],
)
def test_an_unreadable_file_is_retried_once_its_mode_changes(
    error, reason, registry, file, save_tiny, digest, monkeypatch
):
    save_tiny(file, seed=1)
    with monkeypatch.context() as patch:
        fail(patch, error)
        settle(registry)
    assert served(registry) == {"photo": digest(0)}
    assert reason in faults(registry)["photo.safetensors"]
    registry.refresh()
    assert served(registry) == {"photo": digest(0)}, "nothing has changed that would mend it"

    file.chmod(0o640)
    settle(registry)

    assert served(registry) == {"photo": digest(1)}
    assert not faults(registry)


def test_a_file_replaced_during_the_read_is_never_mixed(registry, file, save_tiny, digest, monkeypatch):
    read_bytes = module.Path.read_bytes

    def slowly(path):
        data = read_bytes(path)
        if path == file:
            monkeypatch.undo()
            save_tiny(file, seed=2)
        return data

    save_tiny(file, seed=1)
    monkeypatch.setattr(module.Path, "read_bytes", slowly)
    settle(registry)
    assert served(registry) == {"photo": digest(0)}
    assert "changed while it was read" in faults(registry)["photo.safetensors"]

    settle(registry)

    assert served(registry) == {"photo": digest(2)}
    first = next(parameters(registry.models.by_name["photo"].load().net)).value
    assert torch.equal(first, next(parameters(checkpoint.load(file).net)).value)
    assert not faults(registry)


def test_a_full_disk_changes_nothing(registry, file, save_tiny, digest, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            save_tiny(file, seed=1)
    settle(registry)

    assert served(registry) == {"photo": digest(0)}
    assert not faults(registry)
    assert list(file.parent.iterdir()) == [file]


def test_a_file_too_large_for_weights_is_not_read(registry, file, digest, monkeypatch):
    with file.open("r+b") as grown:
        grown.truncate(2**40)
    settle(registry)

    assert served(registry) == {"photo": digest(0)}
    assert f"{2**40} bytes" in faults(registry)["photo.safetensors"]


def test_a_removed_default_model_stays_in_service(registry, file, digest, save_tiny):
    file.unlink()
    settle(registry)
    assert served(registry) == {"photo": digest(0)}
    assert faults(registry) == {
        "photo.safetensors": "the file was removed; its weights are served until a restart"
    }

    save_tiny(file, seed=1)
    settle(registry)

    assert served(registry) == {"photo": digest(1)}
    assert not faults(registry)


def test_a_removed_folder_takes_nothing_out_of_service(registry, folder, digest):
    shutil.rmtree(folder)
    settle(registry)

    assert served(registry) == {"photo": digest(0)}
    assert list(faults(registry)) == ["photo.safetensors"]


def test_the_fault_of_a_removed_invalid_file_is_cleared(registry, folder):
    (folder / "bad.safetensors").write_bytes(b"no tensors here")
    settle(registry)
    assert list(faults(registry)) == ["bad.safetensors"]

    (folder / "bad.safetensors").unlink()
    registry.refresh()

    assert not faults(registry)
    assert list(served(registry)) == ["photo"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"auto.safetensors", "auto.safetensors"),
        (b"auto-large.safetensors", "auto-large.safetensors"),
        (b"a\nline.safetensors", r"'a\nline.safetensors'"),
        (b"no utf-8 \xff.safetensors", r"'no utf-8 \udcff.safetensors'"),
    ],
)
def test_an_unusable_model_name_is_refused(name, shown, registry, folder, save_tiny, tmp_path):
    save_tiny(tmp_path / "made.safetensors", seed=1).rename(folder / os.fsdecode(name))
    settle(registry)

    assert list(served(registry)) == ["photo"]
    assert faults(registry) == {shown: "weights cannot have this name"}
    assert registry.models.names == ["photo"]


# Memory


def test_older_networks_are_freed(registry, file, save_tiny, digest):
    layers, alive = [], []
    for seed in range(1, 6):
        net = registry.models.by_name["photo"].load().net
        # Run the network once, which packs its weights.
        denoise_image(net, torch.rand(40, 40, 3))
        layers.append([weakref.ref(parameter.layer) for parameter in parameters(net)])
        del net
        save_tiny(file, seed=seed)
        settle(registry)
        gc.collect()
        alive.append(sum(each.numel() for each in gc.get_objects() if type(each) is torch.Tensor))

    assert served(registry) == {"photo": digest(5)}
    assert [any(layer() for layer in net) for net in layers] == [False, False, False, False, True]
    assert len(set(alive[1:])) == 1, "the packed weights of a network go with it"
