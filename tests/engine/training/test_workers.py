"""Workers: processes that share a training step, and what happens when one is lost."""

import os
import re
import signal
import time

import pytest
import torch

from engine.data.noise.gaussian import GaussianNoise
from engine.data.sources import GeneratedPairs, Photos
from engine.layers import parameters
from engine.training import loop, workers
from engine.training.loop import new_train_state, train
from engine.training.recipe import Recipe
from engine.training.workers import ALONE, WorkerLost
from tests.support.workers import crew

RECIPE = {
    "network": "photo",
    "noise": "gaussian",
    "noise_range": (25, 25),
    # Over two workers: two and three patches.
    "batch": 5,
    "patch": 16,
    "steps": 50,
    "channels": (8, 8),
    "blocks": (1, 1, 1),
    "average": 0.95,
    "clip": 1.0,
    "precision": "float32",
}
OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "lr": 0.5},
    "adam": {"optimizer": "adam", "lr": 3e-3},
    "muon": {"optimizer": "muon", "lr": 0.01, "weight_decay": 0.1},
}


def waves(seed, side=48):
    """A photo without noise, uint8 (side, side, 3)."""
    rng = torch.Generator().manual_seed(seed)
    position = torch.arange(side) / side
    a, b, c = torch.rand(3, 3, generator=rng) * 8
    image = (position[:, None, None] * a + position[None, :, None] * b + c).sin()
    return (127 + 90 * image).to(torch.uint8)


class Masked:
    """Pairs of which each pixel has a weight of its own and each sample a shift, in every other step."""

    def __init__(self, pairs):
        self.pairs = pairs

    def draw(self, step, count, rng):
        batch = self.pairs.draw(step, count, rng)
        usable = (torch.rand(*batch.noisy.shape[:3], 1, generator=rng) < 0.5).float()
        shift = torch.rand(count, 2, generator=rng) - 0.5
        return batch._replace(weight=usable, shift=shift) if step % 2 else batch


def trained(group, masked=False, **values):
    """The weights, their average, the losses and the pixels after a run of these workers."""
    recipe = Recipe(**RECIPE | values)
    state = new_train_state(recipe)
    photos = Photos([waves(seed) for seed in range(4)])
    pairs = GeneratedPairs(photos, photos, GaussianNoise(25, 25), recipe.patch)
    pairs = Masked(pairs) if masked else pairs
    losses = [step.loss for step in train(state, pairs, lambda step: step / recipe.steps, group)]
    weights = [parameter.value.clone() for parameter in parameters(state.net)]
    return weights, state.ema.values, losses, state.pixels


def trained_with_other_weights(group, sync_steps, **values):
    """The weights after a run in which worker 1 begins with weights of its own."""
    loop.SYNC_STEPS = sync_steps
    try:
        return trained(group, seed=group.rank, **values)[0]
    finally:
        loop.SYNC_STEPS = 1000


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two workers that exchange gradients in float32."""
    with crew(tmp_path_factory.mktemp("pair")) as both:
        yield both


def assert_same(one, other, atol):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


# A step


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_workers_make_the_steps_of_one(pair, optimizer):
    weights, average, losses, pixels = trained(ALONE, **OPTIMIZERS[optimizer])

    first, second = pair.do(trained, **{key: [value] * 2 for key, value in OPTIMIZERS[optimizer].items()})

    assert_same(first[0], weights, 1e-5)
    assert_same(first[1], average, 1e-5)
    assert first[2] == pytest.approx(losses, abs=1e-6)
    assert first[3] == second[3] == pixels
    # The workers do not drift apart: they have the same bits.
    assert all(map(torch.equal, first[0], second[0]))
    assert first[2] == second[2]


def test_weights_of_pixels_reach_the_other_worker(pair):
    values = {"optimizer": "sgd", "lr": 0.5, "steps": 8}
    weights, _, losses, _ = trained(ALONE, masked=True, **values)

    first, second = pair.do(trained, masked=[True] * 2, **{key: [value] * 2 for key, value in values.items()})

    assert_same(first[0], weights, 1e-5)
    assert first[2] == pytest.approx(losses, abs=1e-6)
    assert all(map(torch.equal, first[0], second[0]))


def test_a_run_diverges_for_all_workers_at_the_same_step(pair):
    pair.start(trained, optimizer=["sgd"] * 2, lr=[1e6] * 2, clip=[0.0] * 2, steps=[500] * 2)

    first, second = pair.result(0), pair.result(1)

    assert isinstance(first, loop.Diverged)
    assert str(first) == str(second)


def test_workers_take_over_the_weights_of_the_first(pair):
    settings = {"optimizer": ["sgd"] * 2, "lr": [1e-3] * 2, "steps": [4] * 2}

    apart = pair.do(trained_with_other_weights, 1000, **settings)
    together = pair.do(trained_with_other_weights, 4, **settings)

    assert not torch.equal(apart[0][0], apart[1][0])
    assert all(map(torch.equal, together[0], together[1]))


def test_a_batch_is_shared_without_a_rest():
    def shares(size, count):
        groups = [object.__new__(workers.Group) for _ in range(count)]
        for rank, group in enumerate(groups):
            group.rank, group.count = rank, count
        return [range(size)[group.share(size)] for group in groups]

    for size, count in ((5, 2), (8, 3), (7, 7)):
        parts = shares(size, count)
        assert [sample for part in parts for sample in part] == list(range(size))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(ValueError, match="a batch of 1 cannot be shared by 2 workers; set batch to 2 or more"):
        shares(1, 2)


# Agreement


def agreed(group, part, stopping):
    return group.agree(part, stopping)


def test_all_go_by_the_clock_of_the_first_and_by_any_stop(pair):
    assert pair.do(agreed, part=[0.25, 0.5], stopping=[False, False]) == [(0.25, False)] * 2
    assert pair.do(agreed, part=[0.25, 0.5], stopping=[False, True]) == [(0.25, True)] * 2


def gathered(group, text):
    return group.gather(text)


def test_texts_of_any_length_are_gathered(pair):
    texts = ["σ" * 1000, ""]

    assert pair.do(gathered, text=texts) == [texts, texts]


# bfloat16 over the wire


def trained_in_bfloat16(group, **values):
    group.wire = torch.bfloat16
    try:
        return trained(group, **values)
    finally:
        group.wire = torch.float32


def test_gradients_in_bfloat16_train_as_well(pair):
    settings = {"optimizer": "muon", "lr": 0.02, "steps": 80}
    _, _, losses, _ = trained(ALONE, **settings)

    first, second = pair.do(trained_in_bfloat16, **{key: [value] * 2 for key, value in settings.items()})

    # What is left to learn: the noise of the target cannot be predicted.
    learnt = [torch.tensor(each).view(4, 20).mean(1) - (25 / 255) ** 2 for each in (losses, first[2])]
    assert all(map(torch.equal, first[0], second[0]))
    assert learnt[0][-1] < 0.85 * learnt[0][0]
    torch.testing.assert_close(*learnt, rtol=0.01, atol=0)


# Lost workers


def wait_for_the_other(group):
    """The seconds until a worker has noticed that the other does not answer, and has left, and the error."""
    begin = time.monotonic()
    try:
        group.agree(0.0, False)
    except WorkerLost as error:
        group.close()
        return time.monotonic() - begin, str(error)


def stay(group, seconds):
    time.sleep(seconds)


def test_a_worker_that_is_killed_ends_the_others_at_once(tmp_path):
    with crew(tmp_path, timeout=60) as pair:
        pair.do(stay, 0)
        pair.processes[1].kill()
        pair.pipes[0].send((wait_for_the_other, (), {}))
        seconds, text = pair.result(0)

    assert seconds < 20
    assert "worker 0 on " in text
    # Closed or reset by peer: what the system says, without gloo's words around it.
    assert re.search(
        r"lost another worker, which ended or did not answer for 60 s \([^/]* by peer[^/]*\); ", text
    )
    assert "resume the run" in text


def test_a_worker_that_hangs_ends_the_others_in_time(tmp_path):
    with crew(tmp_path, timeout=2) as pair:
        pair.do(stay, 0)
        os.kill(pair.processes[1].pid, signal.SIGSTOP)
        pair.pipes[0].send((wait_for_the_other, (), {}))
        seconds, text = pair.result(0)

    assert 1.5 < seconds < 20
    assert "did not answer for 2 s" in text


# What torchrun says


def test_cores_are_divided_by_the_workers_of_the_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)

    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert workers.threads() is None
    for count, threads in (("2", 4), ("3", 2), ("16", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", count)
        assert workers.threads() == threads


def test_restarts_need_a_name_for_the_job(monkeypatch):
    assert workers.job_name() == ""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert workers.job_name() == ""

    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(ValueError, match="--max-restarts but no --rdzv-id"):
        workers.job_name()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "photo-1")
    assert workers.job_name() == "photo-1"


def test_there_is_no_worker_on_a_gpu_that_does_not_exist(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    assert workers.own_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match="worker 3 is number 2 on its machine, where torch finds 1 GPUs"):
        workers.own_device(torch.device("cuda"))
