"""A run of several workers: who saves what, how it stops and resumes, and which workers fit together."""

import json
import time
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from PIL import Image

from engine.training import agreement, trainer
from engine.training.agreement import describe_files
from engine.training.recipe import Recipe
from engine.training.start import begin_run
from engine.training.trainer import Trainer, follow
from engine.training.training_job import TrainingJob
from engine.training.workers import WorkerLost
from tests.support.workers import crew

CPU = torch.device("cpu")
RECIPE = Recipe(
    network="photo",
    noise="gaussian",
    noise_range=(0, 55),
    optimizer="muon",
    lr=0.006,
    batch=3,
    patch=8,
    steps=12,
    channels=(4, 6),
    blocks=(1, 1, 1),
    zoom=0.6,
    clip=1.0,
    precision="float32",
)


def make_photos(folder, count=3):
    folder.mkdir(parents=True)
    for number in range(count):
        rng = torch.Generator().manual_seed(number)
        samples = torch.randint(0, 256, (30, 24, 3), dtype=torch.uint8, generator=rng)
        Image.fromarray(samples.numpy()).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with crew(tmp_path_factory.mktemp("pair")) as both:
        yield both


@pytest.fixture
def job(tmp_path, photos):
    """job(name="a", ...): of a run that logs each step."""

    def make(name="a", recipe=RECIPE, **values):
        out = tmp_path / f"{name}.safetensors"
        often = {"log_every": 0, "validate_every": 1e9, "save_every": 1e9, "device": "cpu", "wire": "float32"}
        return TrainingJob(recipe, out, (photos,), **often | values)

    return make


def work(group, job, stops_after=None):
    """Run a job as one of the workers. stops_after: the steps after which this one is told to stop."""
    trainer.VALIDATION_IMAGES = 4
    if stops_after is not None:
        group = Stopped(group, stops_after)
    if group.rank:
        return follow(job, group, CPU)
    return Trainer(job, group, CPU, lambda line: None, print).run()


class Stopped:
    """A worker that is told to stop after some steps."""

    def __init__(self, group, steps):
        # It is asked before each step, and once before all.
        self.group, self.left = group, steps + 1

    def __getattr__(self, name):
        return getattr(self.group, name)

    def agree(self, part, stopping):
        self.left -= 1
        return self.group.agree(part, stopping or self.left < 0)


def alone(job):
    return trainer.run(job, lambda line: None, pytest.fail)


def about(path):
    with safetensors.safe_open(path, "pt") as opened:
        return opened.metadata()


def assert_same_weights(one, other):
    first, second = (safetensors.torch.load_file(each.out) for each in (one, other))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-5)


@pytest.fixture(autouse=True)
def few_validation_images(monkeypatch):
    monkeypatch.setattr(trainer, "VALIDATION_IMAGES", 4)


def test_two_workers_run_a_job_and_the_first_writes_its_files(pair, job, tmp_path):
    both, one = job("both"), job("one")
    elsewhere = replace(both, out=tmp_path / "elsewhere" / "both.safetensors")

    ended = pair.do(work, job=[both, elsewhere])
    alone(one)

    assert ended == [True, True]
    assert not elsewhere.out.parent.exists()
    assert_same_weights(one, both)
    lines = [[json.loads(line) for line in each.log.read_text().splitlines()] for each in (both, one)]
    assert [line["step"] for line in lines[0]] == [*range(1, 13), 12]
    assert [line["loss"] for line in lines[0]] == pytest.approx([line["loss"] for line in lines[1]], abs=1e-6)
    assert about(both.out)["megapixels"] == about(one.out)["megapixels"]


@pytest.mark.parametrize("told", [0, 1], ids=["first", "second"])
def test_any_worker_stops_all_and_one_alone_resumes(pair, job, told):
    parted, whole = job("parted"), job("whole")

    ended = pair.do(work, job=[parted] * 2, stops_after=[5 if rank == told else None for rank in range(2)])
    stopped = about(parted.checkpoint)["step"]
    alone(replace(parted, resume=True))
    alone(whole)

    assert ended == [False, False]
    assert stopped == "5"
    assert_same_weights(whole, parted)


def test_two_workers_resume_the_run_of_one(pair, job):
    parted, whole = job("parted"), job("whole")
    alone(replace(parted, recipe=replace(RECIPE, steps=7, decay=0.0)))
    constant = replace(RECIPE, decay=0.0)

    pair.do(work, job=[replace(parted, recipe=constant, resume=True)] * 2)
    alone(replace(whole, recipe=constant))

    assert_same_weights(whole, parted)


def test_all_workers_take_over_the_size_of_the_weights(pair, job):
    first, both = job("first"), job("both", replace(RECIPE, channels=(3, 8)))
    alone(first)
    # Only worker 0 has the weights.
    jobs = [replace(both, start=first.out), both]

    pair.do(work, job=jobs)

    assert about(both.out)["network"] == about(first.out)["network"]


def test_a_run_of_minutes_ends_for_all_by_the_first_clock(pair, job):
    short = job(recipe=replace(RECIPE, steps=0, minutes=0.005))

    assert pair.do(work, job=[short, short]) == [True, True]


def test_a_restarted_worker_knows_the_checkpoint_of_its_job(job):
    alone(job(name="a", recipe=replace(RECIPE, steps=3)))
    first = job("b", replace(RECIPE, steps=3))
    alone(replace(first, name="photo-1"))

    longer = replace(first, recipe=RECIPE)
    alone(replace(longer, name="photo-1"))

    assert about(first.checkpoint)["step"] == "12"
    with pytest.raises(ValueError, match="exists: resume that run, or remove the file"):
        alone(replace(longer, name="photo-2"))


def test_the_first_worker_saves_when_it_loses_another(job, tmp_path):
    long = job(recipe=replace(RECIPE, steps=100_000))
    with crew(tmp_path) as pair:
        pair.start(work, job=[long, long])
        while not long.log.exists() or long.log.read_text().count("\n") < 3:
            time.sleep(0.01)
        pair.processes[1].kill()
        error = pair.result(0)

    assert isinstance(error, WorkerLost)
    steps = [json.loads(line)["step"] for line in long.log.read_text().splitlines()]
    assert int(about(long.checkpoint)["step"]) == steps[-1]


# Workers that do not fit together


def begin(group, job, torch_version=None):
    """The start of a run by a worker with another version of torch."""
    version = agreement.version
    if torch_version:
        agreement.version = lambda package: torch_version if package == "torch" else version(package)
    try:
        begin_run(job, group, CPU)
    except ValueError as error:
        return str(error)
    finally:
        agreement.version = version


def assert_refused(errors, *words):
    assert errors[0] == errors[1]
    for word in ("worker 1 on ", "differs from worker 0 on ", *words, "Start all workers with the same"):
        assert word in errors[0]


def test_workers_with_other_files_are_refused(pair, job, tmp_path):
    others = make_photos(tmp_path / "others", count=4)

    errors = pair.do(begin, job=[job(), replace(job(), data=(others,))])

    assert_refused(errors, "data is 4 files (", ") in place of 3 files (")


def test_workers_that_could_read_other_photos_are_refused(pair, job, tmp_path):
    others = make_photos(tmp_path / "photos")
    (others / "2.png").write_bytes(bytes((others / "2.png").stat().st_size))

    pair.start(work, job=[job(), replace(job(), data=(others,))])

    errors = [str(pair.result(rank)) for rank in range(2)]
    assert errors[0] == errors[1]
    assert errors[0].startswith("worker 1 could read other images than worker 0: 2 images, ")
    assert "1 file left out, 2.png, in place of 3 images" in errors[0]


def test_workers_with_another_recipe_are_refused(pair, job):
    errors = pair.do(begin, job=[job(), job(recipe=replace(RECIPE, lr=0.1, seed=3))])

    assert_refused(errors, "lr is 0.1 in place of 0.006; seed is 3 in place of 0")


def test_workers_with_another_torch_are_refused(pair, job):
    errors = pair.do(begin, job=[job()] * 2, torch_version=[None, "1.13.1"])

    assert_refused(errors, f"torch is 1.13.1 in place of {agreement.version('torch')}")


def test_a_checkpoint_that_only_another_worker_has_is_not_lost(pair, job, tmp_path):
    away = replace(job(), out=tmp_path / "away" / "a.safetensors")
    away.out.parent.mkdir()
    away.checkpoint.touch()

    errors = pair.do(begin, job=[job(), away])

    assert errors[0] == errors[1]
    assert "worker 1 on " in errors[1]
    assert f"has a checkpoint, {away.checkpoint}, but worker 0 on " in errors[1]
    assert "copy it to worker 0's machine" in errors[0]


def test_more_workers_than_patches_are_refused_at_the_start(pair, job):
    errors = pair.do(begin, job=[job(recipe=replace(RECIPE, batch=1))] * 2)

    assert errors[0].startswith("a batch of 1 cannot be shared by 2 workers; set batch to 2 or more")


def test_files_are_told_apart_by_name_and_size_not_by_place(tmp_path, photos):
    same = make_photos(tmp_path / "same")
    (same / "notes.txt").touch()

    before = describe_files([same])
    assert before == describe_files([photos])
    assert describe_files([]) == "synthetic images"

    (same / "2.png").rename(same / "3.png")
    assert describe_files([same]) != before
