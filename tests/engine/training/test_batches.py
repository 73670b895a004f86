"""Batches that a thread draws ahead of the training loop."""

import threading

import pytest
import torch

from engine.data.noise.gaussian import GaussianNoise
from engine.data.rng import seeded_generator
from engine.data.sources import Batch, GeneratedPairs, Photos
from engine.training import loop
from engine.training.batches import BATCHES_AHEAD
from engine.training.loop import new_train_state, train
from engine.training.recipe import Recipe


def recipe(**values):
    usual = {"network": "photo", "noise": "gaussian", "noise_range": (25, 25), "optimizer": "adam", "lr": 3e-3}
    sizes = {"batch": 4, "patch": 16, "steps": 10, "channels": (8, 8), "blocks": (1, 1, 1)}
    return Recipe(**usual | sizes | values)


def source():
    rng = torch.Generator().manual_seed(0)
    photos = Photos([torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=rng) for _ in range(3)])
    return GeneratedPairs(photos, photos, GaussianNoise(25, 25), 16)


def run(state, pairs):
    """All ten steps of a run."""
    return list(train(state, pairs, lambda step: step / 10))


class Drawing:
    """Batches of noise; keeps the steps that were asked for, and where they were drawn. fails: at which step."""

    def __init__(self, fails=None):
        self.steps, self.threads, self.fails = [], set(), fails

    def draw(self, step, count, rng):
        if step == self.fails:
            raise RuntimeError(f"the disk is gone at step {step}")
        self.steps.append(step)
        self.threads.add((threading.current_thread(), torch.get_num_threads()))
        noisy = torch.rand(1, 8, 8, 3, generator=rng)
        return Batch(noisy, noisy + 0.1, torch.ones(1))


@pytest.fixture
def threads():
    """The threads there are before a test; at its end there are no others."""
    before = set(threading.enumerate())
    yield before
    assert set(threading.enumerate()) == before


def test_a_batch_depends_on_the_seed_and_the_step_alone(monkeypatch):
    drawn, used = source(), []
    loss = loop.MSE.forward
    monkeypatch.setattr(loop.MSE, "forward", lambda mse, *a: used.append(a[1].clone()) or loss(mse, *a))

    run(new_train_state(recipe(seed=3)), drawn)

    expected = [drawn.draw(step, 4, seeded_generator(3, step)).target for step in range(1, 11)]
    assert all(map(torch.equal, used, expected))
    assert len(used) == 10


@pytest.mark.parametrize("number", [1, 2])
def test_batches_are_drawn_in_another_thread_on_one_core(threads, number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        drawing = Drawing()
        run(new_train_state(recipe()), drawing)
        assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(before)

    ((thread, intra_op),) = drawing.threads
    assert thread not in threads
    assert intra_op == 1
    # Every step once and in order, and a few that nobody needed.
    assert drawing.steps == list(range(1, len(drawing.steps) + 1))
    assert 10 <= len(drawing.steps) <= 10 + BATCHES_AHEAD + 1


def test_an_error_in_drawing_is_raised_at_its_step(threads):
    steps = train(new_train_state(recipe()), Drawing(fails=5), lambda step: step / 10)
    for _ in range(4):
        next(steps)

    with pytest.raises(RuntimeError, match="the disk is gone at step 5"):
        next(steps)


def test_closing_the_loop_ends_the_drawing(threads):
    steps = train(new_train_state(recipe()), Drawing(), lambda step: step / 10)
    next(steps)
    assert len(set(threading.enumerate()) - threads) == 1

    steps.close()


def test_an_interrupt_ends_the_drawing(threads):
    def done(step):
        if step == 3:
            raise KeyboardInterrupt
        return step / 10

    with pytest.raises(KeyboardInterrupt):
        list(train(new_train_state(recipe()), Drawing(), done))


def test_a_run_that_is_over_draws_nothing():
    drawing = Drawing()

    assert list(train(new_train_state(recipe()), drawing, lambda step: 1)) == []
    assert not drawing.steps
