"""Calls that tests of jobs share: submit a job, wait for it, read its events, list stored files."""

import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

SOON = 60  # seconds; only a failing test waits so long
# For tests of what both stores do. See the fixture `settings`.
IN_BOTH_STORES = pytest.mark.parametrize("settings", ["spool", "shared"], indirect=True)
ENDED = ("done", "failed", "cancelled")


def submit(client, body, **params):
    """Submit a job. Returns its path."""
    response = client.post("/jobs", content=body, params=params)
    assert response.status_code == 202, response.text
    return response.headers["location"]


def wait_until(happened):
    end = time.monotonic() + SOON
    while not (result := happened()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return result


def ended(client, job):
    return wait_until(lambda: (now := client.get(job).json())["state"] in ENDED and now)


def stored_files(settings):
    """The names of the jobs' files, without those of SQLite."""
    if settings.blobs:
        folder = Path(urlsplit(settings.blobs).path) / "jobs"
        return sorted(f"{file.parent.name}.{file.suffix[1:] or file.name}" for file in folder.glob("*/*"))
    return sorted(file.name for file in settings.spool.iterdir() if not file.name.startswith("jobs.sqlite"))


def events(lines):
    event = {}
    for line in lines:
        if line:
            field, _, value = line.partition(": ")
            event[field] = value
        elif "data" in event:
            yield event["id"], json.loads(event["data"])
            event = {}
