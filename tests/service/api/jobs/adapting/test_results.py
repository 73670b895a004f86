"""Adaptations by the API: from a zip of shots to weights with a report, or to a clear word."""

import io
import json
import shutil
from zipfile import ZipFile

import numpy as np
import pytest
import tifffile
from fastapi.testclient import TestClient

from engine.adaptation import adapt
from engine.models import checkpoint
from service.app import create_app
from tests.service.api.jobs.adapting.adapt_client import MINUTES, query, shots_zip, trainers
from tests.service.api.jobs.job_client import IN_BOTH_STORES, ended, events, stored_files
from tests.support.bursts import white


def submit(client, body, **how):
    answer = client.post(query(**how), content=body)
    assert answer.status_code == 202, answer.text
    return answer.headers["location"]


@IN_BOTH_STORES
def test_shots_become_weights_and_a_report(client, learnable, settings, temporary, tmp_path):
    job = submit(client, learnable, minutes=MINUTES, name="mine")
    heard = [job for _, job in events(client.get(f"{job}/events").text.splitlines())]
    done = client.get(job).json()
    result = client.get(f"{job}/result")

    with ZipFile(io.BytesIO(result.content)) as archive:
        names = archive.namelist()
        report = json.loads(archive.read("mine.json"))
        page = archive.read("mine.html").decode()
        archive.extract("mine.safetensors", tmp_path)
    stages = [each["adaptation"]["stage"] for each in heard]
    assert (done["task"], done["state"], done["name"], done["progress"]) == ("adapt", "done", "mine.zip", 1)
    assert done["adaptation"]["verdict"] == "better"
    assert done["adaptation"]["gain"] > 0.1 > abs(done["adaptation"]["gain_before"])
    assert done["adaptation"]["improvement"]["low"] > 0
    assert done["adaptation"]["reasons"] == []
    assert sorted(names) == ["mine.html", "mine.json", "mine.safetensors"]
    assert result.headers["content-type"] == "application/zip"
    assert report["folder"] == "shots"
    assert "Adaptation to the noise" in page
    assert checkpoint.load(tmp_path / "mine.safetensors").metadata["adapted"] == "6 scenes, 4 held out"
    assert [stage for stage in dict.fromkeys(stages) if stage] == [
        "examining",
        "preparing",
        "training",
        "judging",
    ]
    shares = [each["progress"] for each in heard]
    assert shares == sorted(shares)
    assert any(each["seconds_left"] for each in heard)
    assert len(stored_files(settings)) == 1
    assert list(temporary.glob("denoise-job-*")) == []
    assert trainers(temporary) == []


def test_weights_that_are_not_better_are_no_error(settings, folder):
    shutil.copyfile(checkpoint.find("photo-small"), folder / "small.safetensors")
    body = shots_zip(white(25), scenes=4)
    with TestClient(create_app(settings)) as client:
        job = submit(client, body, minutes=0.01, start="small")
        done = ended(client, job)
        with ZipFile(io.BytesIO(client.get(f"{job}/result").content)) as archive:
            names = archive.namelist()

    assert (done["state"], done["error"]) == ("done", None)
    assert done["adaptation"]["verdict"] == "not better"
    assert "not better with 95 % confidence" in done["adaptation"]["reasons"][0]
    assert "adapted.refused.safetensors" in names


@IN_BOTH_STORES
def test_shots_that_teach_nothing_fail_with_the_doctors_table(client, settings, tmp_path, folder):
    body = shots_zip(white(25), scenes=2, top="cells/")
    job = submit(client, body)
    failed = ended(client, job)
    answer = client.get(f"{job}/result")

    ZipFile(io.BytesIO(body)).extractall(tmp_path)
    with pytest.raises(ValueError, match="Record at least 3 scenes") as known:
        adapt(tmp_path / "cells", tmp_path / "out.safetensors", start=str(folder / "photo.safetensors"))
    assert (failed["state"], failed["error"]["status"]) == ("failed", 422)
    assert failed["error"]["detail"] == str(known.value)
    assert failed["adaptation"]["verdict"] is None
    assert answer.status_code == 422
    assert answer.json()["detail"] == str(known.value)
    assert answer.json()["report"]["folder"] == "shots/cells"
    assert [each["check"] for each in answer.json()["report"]["findings"]] == ["too little"]
    assert stored_files(settings) == []


def test_a_zip_without_shots_fails(client, file_of):
    packed = io.BytesIO()
    with ZipFile(packed, "w") as archive:
        archive.writestr("notes.txt", b"none")

    failed = ended(client, submit(client, packed.getvalue()))

    assert failed["error"]["detail"].startswith("shots: no shots in this folder. 1 files are left out")


def test_too_little_memory_fails_and_names_the_setting(settings):
    file, packed = io.BytesIO(), io.BytesIO()
    tifffile.imwrite(file, np.zeros((12_000, 12_000), np.uint8), compression="zlib")
    with ZipFile(packed, "w") as archive:
        archive.writestr("large.tif", file.getvalue())
    with TestClient(create_app(settings.model_copy(update={"adapt_memory": 2**29}))) as client:
        failed = ended(client, submit(client, packed.getvalue()))

    assert failed["error"]["status"] == 413
    assert "needs more than 536870912 bytes of memory" in failed["error"]["detail"]
    assert "DENOISE_ADAPT_MEMORY" in failed["error"]["detail"]
