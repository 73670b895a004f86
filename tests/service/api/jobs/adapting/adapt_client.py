"""What tests of adaptations share: zips of noisy shots, and a look at the processes that train."""

import io
import json
import zipfile
from pathlib import Path

import tifffile

from tests.service.api.jobs.job_client import wait_until
from tests.support.bursts import scene, shots

# Minutes of training that suffice for the tiny network.
MINUTES = 0.1
# Longer than any test.
LONG = 30


def shots_zip(noise, scenes, count=2, side=64, top=""):
    """A zip of shots: top/scene-0/frame-0.tif and so on."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(scenes):
            for index, shot in enumerate(shots(scene(number, side), noise, count, number)):
                file = io.BytesIO()
                tifffile.imwrite(file, shot.numpy().astype("uint16"))
                archive.writestr(f"{top}scene-{number}/frame-{index}.tif", file.getvalue())
    return packed.getvalue()


def query(minutes=LONG, start="photo", **params):
    """The path of a request."""
    given = {"task": "adapt", "minutes": minutes, "start": start, **params}
    return "/jobs?" + "&".join(f"{name}={value}" for name, value in given.items())


def trainers(temporary):
    """The processes that train: their IDs."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(temporary).encode() in words and b"adapt_process" in words:
            found.append(int(process.name))
    return found


def state_of(pid):
    """Of a process: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def status(server, job):
    return json.loads(server.ask(f"GET {job}")[2])


def until_begun(ask):
    """Waits for the process. ask: gives the job."""
    return wait_until(lambda: (job := ask()) and job["adaptation"]["stage"] and job)


def until_training(ask):
    """Waits for the stage. ask: gives the job."""
    return wait_until(lambda: (job := ask()) and job["adaptation"]["stage"] == "training" and job)
