"""A worker of a cluster, in this process."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from engine.batch import tasks
from engine.batch.cluster.worker import ModelFiles, Worker, WorkerSetup
from engine.batch.planning import plan_tasks
from engine.batch.tasks import DenoiseOptions
from engine.storage.locations import file_stamp
from tests.support.images import gradient


@pytest.fixture
def setup(model):
    return WorkerSetup(ModelFiles.read(str(model)), DenoiseOptions(), precision="float32")


@pytest.fixture
def worker(setup):
    made = Worker(setup)
    made.start()
    yield made
    made.close()


def handed(shots, out):
    return [(task, file_stamp(task.source)) for task in plan_tasks([shots], out)]


def test_a_worker_denoises_and_tells_the_stamps(worker, shots, tmp_path):
    rows = list(worker.denoise(handed(shots, tmp_path / "clean")))

    assert [row.outcome.error for row in rows] == [None, None]
    assert [row.output_stamp for row in rows] == [file_stamp(row.outcome.task.target) for row in rows]
    assert all(row.finished and row.outcome.pixels for row in rows)
    assert (np.asarray(Image.open(tmp_path / "clean" / "a.png")) == gradient()).all()


def test_a_broken_file_is_a_row(worker, shots, tmp_path):
    (shots / "a.png").write_bytes(b"no image")

    broken, fine = worker.denoise(handed(shots, tmp_path / "clean"))

    assert "This is not an image" in broken.outcome.error
    assert (broken.finished, broken.output_stamp) == (True, None)
    assert fine.outcome.error is None


def test_what_may_go_well_later_is_not_finished(worker, shots, tmp_path, monkeypatch):
    work = handed(shots, tmp_path / "clean")
    (shots / "a.png").unlink()
    Image.new("RGB", (20, 20)).save(shots / "b.jpg")

    missing, changed = worker.denoise(work)

    assert not missing.finished
    assert not changed.finished
    assert changed.outcome.error.endswith("the file was changed while it was processed; try again")


def test_a_mistake_of_the_program_ends_one_image(worker, shots, tmp_path, monkeypatch):
    def fail(*args):
        raise KeyError("oops")

    monkeypatch.setattr(tasks, "denoise_bytes", fail)

    rows = list(worker.denoise(handed(shots, tmp_path / "clean")))

    assert [row.outcome.error for row in rows] == ["internal error: KeyError: 'oops'"] * 2
    assert not any(row.finished for row in rows)


def test_a_stopped_worker_begins_no_image(worker, shots, tmp_path):
    rows = worker.denoise(handed(shots, tmp_path / "clean"))
    next(rows)
    worker.stop()

    assert list(rows) == []


def test_a_node_with_another_version_or_folder_is_refused(setup, tmp_path):
    with pytest.raises(ValueError, match="install the same version on all nodes"):
        Worker(replace(setup, version="0.0.1")).start()
    with pytest.raises(ValueError, match=r"does not see .*none; use a folder that all nodes share"):
        Worker(replace(setup, shared=(tmp_path, tmp_path / "none"))).start()


def test_sent_weights_are_the_same_model(model, setup):
    loaded = setup.model.build("cpu", "float32")

    assert (loaded.name, loaded.digest) == ("plain", setup.model.digest)
    assert ModelFiles.read("auto").digest.count("+") == 2
