"""What reaches the disk, and in which order: a power cut loses all that comes after it."""

import os
from pathlib import Path


def recorded_calls(monkeypatch, folder):
    """A list that grows with each sync and rename below the folder, by the name of the file."""
    calls, fsync, replace = [], os.fsync, os.replace

    def name(path):
        path = Path(path).relative_to(folder)
        return "part" if path.suffix == ".part" else str(path)

    def record_sync(file):
        calls.append(f"sync {name(Path(f'/proc/self/fd/{file}').readlink())}")
        fsync(file)

    def record_rename(source, target):
        calls.append(f"rename to {name(target)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_rename)
    return calls
