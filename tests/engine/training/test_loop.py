import math
import threading

import pytest
import torch

from engine.data.noise.gaussian import GaussianNoise
from engine.data.rng import seeded_generator
from engine.data.sources import Batch, GeneratedPairs, Photos, ValidationSet
from engine.evaluation.evaluate import psnr
from engine.layers import parameters
from engine.training import loop as train_module
from engine.training.config import Recipe
from engine.training.loop import AHEAD, UNREAD, Diverged, DivergenceMonitor, begin, train, validate

SIGMA = 25


def recipe(**values):
    usual = {
        "network": "photo",
        "noise": "gaussian",
        "noise_range": (SIGMA, SIGMA),
        "optimiser": "adam",
        "lr": 3e-3,
        "batch": 4,
        "patch": 16,
        "steps": 10,
        "channels": (8, 8),
        "blocks": (1, 1, 1),
        "average": 0.95,
    }
    return Recipe(**usual | values)


def waves(seed, side=64):
    """A photo without noise: a few smooth waves of colour and an edge, uint8."""
    rng = torch.Generator().manual_seed(seed)
    place = torch.arange(side) / side
    turn = torch.rand(4, 3, generator=rng) * 6
    waves = (turn[0] * 3 * place[:, None] + turn[1]).sin()[:, None] + (
        turn[2] * 3 * place[:, None] + turn[3]
    ).cos()
    waves[:, int(20 + 20 * torch.rand((), generator=rng)) :] *= -0.7
    return (127 + 60 * waves).to(torch.uint8)


def source(noise=None, patch=16):
    photos = Photos([waves(n) for n in range(6)])
    return GeneratedPairs(photos, Photos([waves(50)]), noise or GaussianNoise(SIGMA, SIGMA), patch)


def run(training, pairs=None, steps=None):
    """All steps of a run; returns what it yielded."""
    steps = steps or training.recipe.steps
    return list(train(training, pairs or source(), lambda step: step / steps))


def values(training):
    return [p.value.clone() for p in parameters(training.net)]


class Fixed:
    """A source that gives the batches it is given, one after the other."""

    def __init__(self, *batches):
        self.batches = batches

    def draw(self, step, count, rng):
        return self.batches[(step - 1) % len(self.batches)]


# It learns


@pytest.mark.parametrize(
    ("optimiser", "settings", "decibels"),
    [
        ("adam", {"lr": 5e-3}, 2.0),
        ("muon", {"lr": 0.02, "adam_lr": 5e-3, "clip": 1.0}, 2.0),
        ("sgd", {"lr": 1.0, "clip": 0.1}, 0.3),
    ],
)
def test_a_short_training_on_noisy_pairs_alone_gains_decibels_on_a_clean_image(optimiser, settings, decibels):
    training = begin(recipe(optimiser=optimiser, steps=300, **settings))
    clean = waves(99).float() / 255
    noisy = clean + SIGMA / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))

    progress = run(training)

    training.average.swap()
    denoised = training.net.forward(noisy.unsqueeze(0))[0].clamp(0, 1)
    assert psnr(denoised, clean) > psnr(noisy.clamp(0, 1), clean) + decibels
    # The noise of the target cannot be predicted: its variance is what the loss comes down to, not 0.
    last = sum(step.loss for step in progress[-30:]) / 30
    assert (SIGMA / 255) ** 2 < last < 2 * (SIGMA / 255) ** 2


@pytest.mark.parametrize("geometry", ["text", "weights"])
def test_a_paper_network_learns_too(geometry):
    training = begin(recipe(network="paper", geometry=geometry, hidden=16, optimiser="sgd", lr=3.0, steps=300))

    progress = run(training)

    first, last = (sum(step.loss for step in part) for part in (progress[:10], progress[-10:]))
    assert last < 0.8 * first


def test_a_recipes_weight_decay_is_muons():
    muon, _ = begin(recipe(optimiser="muon", weight_decay=0.25)).optimiser.optimisers

    assert muon.weight_decay == 0.25


def test_the_same_seed_trains_the_same_weights_and_another_seed_others():
    one, same, other = (begin(recipe(seed=seed)) for seed in (1, 1, 2))
    for training in (one, same, other):
        run(training)

    assert all(map(torch.equal, values(one), values(same)))
    assert not any(map(torch.equal, values(one), values(other)))


def test_progress_tells_the_step_the_pixels_and_the_learning_rate():
    progress = run(begin(recipe(warmup=2, decay=0.5, lr=0.01)))

    assert [step.step for step in progress] == list(range(1, 11))
    assert [step.pixels for step in progress] == [n * 4 * 16 * 16 for n in range(1, 11)]
    assert [step.lr for step in progress] == pytest.approx(
        [0.005, 0.01, 0.01, 0.01, 0.01, 0.01, 0.008, 0.006, 0.004, 0.002]
    )


def test_the_loss_is_that_of_the_weighted_samples():
    noisy = torch.zeros(2, 8, 8, 3)
    target = torch.cat((torch.full((1, 8, 8, 3), 2.0), torch.full((1, 8, 8, 3), 1.0)))
    training = begin(recipe(steps=1))

    # A fresh photo network gives back its input, so the errors are 2 and 1.
    (progress,) = run(training, Fixed(Batch(noisy, target, torch.tensor([0.25, 3.0]))))

    assert progress.loss == pytest.approx((0.25 * 4 + 3 * 1) / 2)


def test_clipping_bounds_what_one_batch_can_do():
    noisy = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    wild = Fixed(Batch(noisy, noisy + 100, torch.ones(1)))
    clipped, free = (begin(recipe(optimiser="sgd", lr=0.01, steps=1, clip=clip)) for clip in (0.5, 0.0))
    before = values(clipped)
    run(clipped, wild)
    run(free, wild)

    def moved(training):
        return math.sqrt(
            sum(float((a - b).square().sum()) for a, b in zip(values(training), before, strict=True))
        )

    assert moved(clipped) == pytest.approx(0.01 * 0.5, rel=1e-3)
    assert moved(free) > 100 * moved(clipped)


def test_a_patch_that_is_no_multiple_of_the_stride_is_refused():
    with pytest.raises(ValueError, match="patch must be a multiple of the network's stride, 4; got 18"):
        begin(recipe(patch=18))


# Batches drawn ahead


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


def test_each_step_gets_the_batch_that_its_number_and_the_seed_name(monkeypatch):
    drawn, used = source(), []
    loss = train_module.MSE.forward
    monkeypatch.setattr(train_module.MSE, "forward", lambda mse, *a: used.append(a[1].clone()) or loss(mse, *a))

    run(begin(recipe(seed=3)), drawn)

    expected = [drawn.draw(step, 4, seeded_generator(3, step)).target for step in range(1, 11)]
    assert all(map(torch.equal, used, expected))
    assert len(used) == 10


@pytest.mark.parametrize("number", [1, 2])
def test_batches_are_drawn_in_one_other_thread_whose_arithmetic_is_its_own(threads, number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        drawing = Drawing()
        run(begin(recipe()), drawing)
        assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(before)

    ((thread, intra_op),) = drawing.threads
    assert thread not in threads
    assert intra_op == 1
    # Every step once and in order, and a few that nobody needed.
    assert drawing.steps == list(range(1, len(drawing.steps) + 1))
    assert 10 <= len(drawing.steps) <= 10 + AHEAD + 1


def test_an_error_in_drawing_is_raised_at_its_step(threads):
    steps = train(begin(recipe()), Drawing(fails=5), lambda step: step / 10)
    for _ in range(4):
        next(steps)

    with pytest.raises(RuntimeError, match="the disk is gone at step 5"):
        next(steps)


def test_closing_the_loop_ends_the_drawing(threads):
    steps = train(begin(recipe()), Drawing(), lambda step: step / 10)
    next(steps)
    assert len(set(threading.enumerate()) - threads) == 1

    steps.close()


def test_an_interrupt_ends_the_drawing(threads):
    def done(step):
        if step == 3:
            raise KeyboardInterrupt
        return step / 10

    with pytest.raises(KeyboardInterrupt):
        list(train(begin(recipe()), Drawing(), done))


def test_a_run_that_is_over_draws_nothing():
    drawing = Drawing()

    assert list(train(begin(recipe()), drawing, lambda step: 1)) == []
    assert not drawing.steps


# State


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "muon"])
def test_a_training_goes_on_from_its_state_bit_for_bit(optimiser):
    whole, first, second = (begin(recipe(optimiser=optimiser, lr=0.01)) for _ in range(3))
    pairs = source()
    run(whole, pairs)
    steps = train(first, pairs, lambda step: step / 10)
    for _ in range(4):
        next(steps)
    state = {name: value.clone() for name, value in first.state().items()}
    run(second, pairs, steps=3)

    second.load_state(state)
    second.step, second.pixels = first.step, first.pixels
    run(second, pairs)

    assert all(map(torch.equal, values(second), values(whole)))
    assert all(map(torch.equal, second.average.values, whole.average.values))
    assert second.watch == whole.watch


def test_a_state_that_lacks_a_tensor_is_refused_by_name():
    training = begin(recipe())
    state = training.state()
    del state["weights.0.1.weight"]

    with pytest.raises(KeyError, match=r"weights.0.1.weight"):
        training.load_state(state)


# Going wrong


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_training_before_the_weights_are_touched(poison):
    good = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    batches = [Batch(good, good + 0.1, torch.ones(1))] * 4 + [Batch(good, good + poison, torch.ones(1))]
    training = begin(recipe(lr=0.002))
    steps = train(training, Fixed(*batches), lambda step: step / 10)
    for _ in range(4):
        next(steps)
    before = values(training)

    with pytest.raises(Diverged, match=rf"the loss at step 5 is {poison}: lower lr \(it is 0.002\) or clip"):
        next(steps)

    assert all(map(torch.equal, values(training), before))
    assert all(value.isfinite().all() for value in [*values(training), *training.average.values])
    assert training.step == 4


class Elsewhere:
    """A loss on a device that has to be waited for."""

    device = torch.device("cuda")

    def __init__(self, value):
        self.value = torch.tensor(value)


def test_losses_on_a_gpu_are_read_many_at_a_time(monkeypatch):
    reads, stack = [], torch.stack

    def counted(losses):
        reads.append(len(losses))
        return stack([loss.value for loss in losses])

    training = begin(recipe())
    monkeypatch.setattr(train_module.torch, "stack", counted)
    for step in range(1, UNREAD + 12):
        training.note(step, Elsewhere(float(step)))

    assert reads == [1, UNREAD]
    assert training.loss == UNREAD + 1
    training.read_losses()
    assert reads == [1, UNREAD, 10]
    assert training.watch.steps == UNREAD + 11


def test_a_loss_on_a_gpu_that_is_no_number_is_found_before_anything_is_saved(monkeypatch):
    stack = torch.stack
    training = begin(recipe())
    monkeypatch.setattr(train_module.torch, "stack", lambda losses: stack([loss.value for loss in losses]))
    for step, loss in enumerate((0.1, 0.1, math.nan, 0.1), 1):
        training.note(step, Elsewhere(loss))

    with pytest.raises(Diverged, match="the loss at step 3 is nan"):
        training.state()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_step_on_a_gpu_waits_for_nothing():
    training = begin(recipe(optimiser="muon", clip=1.0), device="cuda")
    photos = Photos([waves(n) for n in range(6)], zoom=0.6, device="cuda")
    pairs = GeneratedPairs(photos, photos, GaussianNoise(SIGMA, SIGMA), 16)
    steps = train(training, pairs, lambda step: step / 10)
    next(steps)

    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(8):
            next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        steps.close()

    training.read_losses()
    assert math.isfinite(training.loss)


def test_a_learning_rate_that_is_too_high_stops_the_training_and_says_so():
    training = begin(recipe(optimiser="sgd", lr=100.0, steps=500))

    with pytest.raises(Diverged, match=r"lower lr \(it is 100\) or clip the gradient's norm \(clip is none\)"):
        run(training)


def test_a_loss_that_rises_tenfold_stops_the_training():
    watch = DivergenceMonitor()
    for step in range(1, 101):
        watch.see(0.01, step, recipe())
    # One bad batch, or four, do not stop a run: what counts is the mean of fifty.
    for step in range(101, 105):
        watch.see(1.0, step, recipe())

    with pytest.raises(Diverged, match=r"by step 105 the loss has risen from 0.01 to 0.10\d: .*clip is 2"):
        watch.see(1.0, 105, recipe(clip=2.0))


def test_the_first_losses_set_no_standard():
    watch = DivergenceMonitor()

    for step in range(1, 200):
        watch.see(0.001 if step < 5 else 0.05, step, recipe())

    assert watch.lowest > 0.04


def test_a_noisy_but_falling_loss_never_stops_the_training():
    watch, rng = DivergenceMonitor(), torch.Generator().manual_seed(0)

    for step in range(1, 2000):
        watch.see(float(torch.randn((), generator=rng).mul(0.8).exp()) * (0.1 + 10 / step), step, recipe())

    assert watch.lowest < 0.3


# Validation


def test_validation_measures_the_averaged_weights_and_puts_the_trained_back():
    training = begin(recipe())
    run(training)
    trained, averaged = values(training), [value.clone() for value in training.average.values]
    images = source().validation(10)

    measured = validate(training, images)

    assert all(map(torch.equal, values(training), trained))
    assert all(map(torch.equal, training.average.values, averaged))
    training.average.swap()
    outputs = training.net.forward(images.noisy).clamp(0, 1)
    each = [psnr(output, clean) for output, clean in zip(outputs, images.reference, strict=True)]
    assert measured == pytest.approx(sum(each) / 10, abs=1e-3)


def test_noisy_references_give_nearly_the_psnr_that_clean_ones_would():
    rng = torch.Generator().manual_seed(0)
    clean = torch.stack([waves(n).float() / 255 for n in range(20)])
    # Within the range of images: what is clipped has no independent noise.
    clean = 0.3 + 0.4 * clean
    noisy, reference = (clean + 0.05 * torch.randn(clean.shape, generator=rng) for _ in range(2))
    training = begin(recipe())

    estimate = validate(training, ValidationSet(noisy, reference, 0.05**2))

    # A fresh network gives back its input.
    assert estimate == pytest.approx(-20 * math.log10(0.05), abs=0.1)
