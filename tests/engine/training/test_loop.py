import math

import pytest
import torch

from engine.data.noise.gaussian import GaussianNoise
from engine.data.sources import Batch, GeneratedPairs, Photos, RecordedPairs, ValidationSet
from engine.evaluation.metrics import psnr
from engine.layers import parameters
from engine.training import loop as train_module
from engine.training.loop import (
    UNREAD_LOSSES,
    Diverged,
    DivergenceMonitor,
    new_train_state,
    noisy_psnr,
    train,
    validate,
)
from engine.training.recipe import Recipe
from tests.support.pixels import generator

SIGMA = 25


def recipe(**values):
    usual = {
        "network": "photo",
        "noise": "gaussian",
        "noise_range": (SIGMA, SIGMA),
        "optimizer": "adam",
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
    position = torch.arange(side) / side
    coefficients = torch.rand(4, 3, generator=rng) * 6
    waves = (coefficients[0] * 3 * position[:, None] + coefficients[1]).sin()[:, None] + (
        coefficients[2] * 3 * position[:, None] + coefficients[3]
    ).cos()
    waves[:, int(20 + 20 * torch.rand((), generator=rng)) :] *= -0.7
    return (127 + 60 * waves).to(torch.uint8)


def source(noise=None, patch=16):
    photos = Photos([waves(n) for n in range(6)])
    return GeneratedPairs(photos, Photos([waves(50)]), noise or GaussianNoise(SIGMA, SIGMA), patch)


def run(state, pairs=None, steps=None):
    """All steps of a run; returns what it yielded."""
    steps = steps or state.recipe.steps
    return list(train(state, pairs or source(), lambda step: step / steps))


def values(state):
    return [p.value.clone() for p in parameters(state.net)]


class Fixed:
    """A source that gives the batches it is given, one after the other."""

    def __init__(self, *batches):
        self.batches = batches

    def draw(self, step, count, rng):
        return self.batches[(step - 1) % len(self.batches)]


# It learns


@pytest.mark.parametrize(
    ("optimizer", "settings", "decibels"),
    [
        ("adam", {"lr": 5e-3}, 2.0),
        ("muon", {"lr": 0.02, "adam_lr": 5e-3, "clip": 1.0}, 2.0),
        ("sgd", {"lr": 1.0, "clip": 0.1}, 0.3),
    ],
)
def test_training_on_noisy_pairs_gains_decibels_on_clean_images(optimizer, settings, decibels):
    state = new_train_state(recipe(optimizer=optimizer, steps=300, **settings))
    clean = waves(99).float() / 255
    noisy = clean + SIGMA / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))

    progress = run(state)

    state.ema.swap()
    denoised = state.net.forward(noisy.unsqueeze(0))[0].clamp(0, 1)
    assert psnr(denoised, clean) > psnr(noisy.clamp(0, 1), clean) + decibels
    # The noise of the target cannot be predicted: its variance is what the loss comes down to, not 0.
    last = sum(step.loss for step in progress[-30:]) / 30
    assert (SIGMA / 255) ** 2 < last < 2 * (SIGMA / 255) ** 2


@pytest.mark.parametrize("geometry", ["text", "weights"])
def test_a_paper_network_learns_too(geometry):
    state = new_train_state(
        recipe(network="paper", geometry=geometry, hidden=16, optimizer="sgd", lr=3.0, steps=300)
    )

    progress = run(state)

    first, last = (sum(step.loss for step in part) for part in (progress[:10], progress[-10:]))
    assert last < 0.8 * first


def test_a_recipes_weight_decay_is_muons():
    muon, _ = new_train_state(recipe(optimizer="muon", weight_decay=0.25)).optimizer.optimisers

    assert muon.weight_decay == 0.25


def test_the_seed_decides_the_weights():
    one, same, other = (new_train_state(recipe(seed=seed)) for seed in (1, 1, 2))
    for state in (one, same, other):
        run(state)

    assert all(map(torch.equal, values(one), values(same)))
    assert not any(map(torch.equal, values(one), values(other)))


def test_progress_has_the_step_the_pixels_and_the_rate():
    progress = run(new_train_state(recipe(warmup=2, decay=0.5, lr=0.01)))

    assert [step.step for step in progress] == list(range(1, 11))
    assert [step.pixels for step in progress] == [n * 4 * 16 * 16 for n in range(1, 11)]
    assert [step.lr for step in progress] == pytest.approx(
        [0.005, 0.01, 0.01, 0.01, 0.01, 0.01, 0.008, 0.006, 0.004, 0.002]
    )


def test_the_loss_is_that_of_the_weighted_samples():
    noisy = torch.zeros(2, 8, 8, 3)
    target = torch.cat((torch.full((1, 8, 8, 3), 2.0), torch.full((1, 8, 8, 3), 1.0)))
    state = new_train_state(recipe(steps=1))

    # A fresh photo network gives back its input, so the errors are 2 and 1.
    (progress,) = run(state, Fixed(Batch(noisy, target, torch.tensor([0.25, 3.0]))))

    assert progress.loss == pytest.approx((0.25 * 4 + 3 * 1) / 2)


def test_the_loss_compares_the_moved_output():
    ramp = torch.linspace(0, 1, 32).view(1, 1, 32, 1).expand(1, 32, 32, 3).contiguous()
    shift = torch.tensor([[0.0, 0.4]])
    weight = torch.zeros(1, 32, 32, 1)
    weight[:, 8:-8, 8:-8] = 1

    # A fresh photo network gives back its input. Moved right by 0.4 pixels, a ramp is lower.
    batch = Batch(ramp, ramp - 0.4 / 31, weight, shift)
    (progress,) = run(new_train_state(recipe(steps=1)), Fixed(batch))
    (unmoved,) = run(new_train_state(recipe(steps=1)), Fixed(batch._replace(shift=None)))

    assert progress.loss < 0.01 * unmoved.loss


def test_clipping_bounds_what_one_batch_can_do():
    noisy = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    wild = Fixed(Batch(noisy, noisy + 100, torch.ones(1)))
    clipped, free = (new_train_state(recipe(optimizer="sgd", lr=0.01, steps=1, clip=clip)) for clip in (0.5, 0.0))
    before = values(clipped)
    run(clipped, wild)
    run(free, wild)

    def moved(state):
        return math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(values(state), before, strict=True)))

    assert moved(clipped) == pytest.approx(0.01 * 0.5, rel=1e-3)
    assert moved(free) > 100 * moved(clipped)


def test_a_patch_that_is_no_multiple_of_the_stride_is_refused():
    with pytest.raises(ValueError, match="patch must be a multiple of the network's stride, 4; got 18"):
        new_train_state(recipe(patch=18))


# State


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muon"])
def test_a_training_goes_on_from_its_state_bit_for_bit(optimizer):
    whole, first, second = (new_train_state(recipe(optimizer=optimizer, lr=0.01)) for _ in range(3))
    pairs = source()
    run(whole, pairs)
    steps = train(first, pairs, lambda step: step / 10)
    for _ in range(4):
        next(steps)
    tensors = {name: value.clone() for name, value in first.tensors().items()}
    run(second, pairs, steps=3)

    second.load_tensors(tensors)
    second.step, second.pixels = first.step, first.pixels
    run(second, pairs)

    assert all(map(torch.equal, values(second), values(whole)))
    assert all(map(torch.equal, second.ema.values, whole.ema.values))
    assert second.divergence == whole.divergence


def test_a_state_that_lacks_a_tensor_is_refused_by_name():
    state = new_train_state(recipe())
    tensors = state.tensors()
    del tensors["weights.0.1.weight"]

    with pytest.raises(KeyError, match=r"weights.0.1.weight"):
        state.load_tensors(tensors)


# Divergence


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_leaves_the_weights_unchanged(poison):
    good = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    batches = [Batch(good, good + 0.1, torch.ones(1))] * 4 + [Batch(good, good + poison, torch.ones(1))]
    state = new_train_state(recipe(lr=0.002))
    steps = train(state, Fixed(*batches), lambda step: step / 10)
    for _ in range(4):
        next(steps)
    before = values(state)

    with pytest.raises(Diverged, match=rf"the loss at step 5 is {poison}: lower lr \(it is 0.002\) or clip"):
        next(steps)

    assert all(map(torch.equal, values(state), before))
    assert all(value.isfinite().all() for value in [*values(state), *state.ema.values])
    assert state.step == 4


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

    state = new_train_state(recipe())
    monkeypatch.setattr(train_module.torch, "stack", counted)
    for step in range(1, UNREAD_LOSSES + 12):
        state.record_loss(step, Elsewhere(float(step)))

    assert reads == [1, UNREAD_LOSSES]
    assert state.loss == UNREAD_LOSSES + 1
    state.read_losses()
    assert reads == [1, UNREAD_LOSSES, 10]
    assert state.divergence.steps == UNREAD_LOSSES + 11


def test_a_bad_loss_on_a_gpu_is_found_before_a_save(monkeypatch):
    stack = torch.stack
    state = new_train_state(recipe())
    monkeypatch.setattr(train_module.torch, "stack", lambda losses: stack([loss.value for loss in losses]))
    for step, loss in enumerate((0.1, 0.1, math.nan, 0.1), 1):
        state.record_loss(step, Elsewhere(loss))

    with pytest.raises(Diverged, match="the loss at step 3 is nan"):
        state.tensors()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_step_on_a_gpu_does_not_synchronise():
    state = new_train_state(recipe(optimizer="muon", clip=1.0), device="cuda")
    photos = Photos([waves(n) for n in range(6)], zoom=0.6, device="cuda")
    pairs = GeneratedPairs(photos, photos, GaussianNoise(SIGMA, SIGMA), 16)
    steps = train(state, pairs, lambda step: step / 10)
    next(steps)

    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(8):
            next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        steps.close()

    state.read_losses()
    assert math.isfinite(state.loss)


def test_too_high_a_learning_rate_stops_the_training():
    state = new_train_state(recipe(optimizer="sgd", lr=100.0, steps=500))

    with pytest.raises(Diverged, match=r"lower lr \(it is 100\) or clip the gradient's norm \(clip is none\)"):
        run(state)


def test_a_loss_that_rises_tenfold_stops_the_training():
    watch = DivergenceMonitor()
    for step in range(1, 101):
        watch.update(0.01, step, recipe())
    # One bad batch, or four, do not stop a run: what counts is the mean of fifty.
    for step in range(101, 105):
        watch.update(1.0, step, recipe())

    with pytest.raises(Diverged, match=r"by step 105 the loss has risen from 0.01 to 0.10\d: .*clip is 2"):
        watch.update(1.0, 105, recipe(clip=2.0))


def test_the_first_losses_set_no_standard():
    watch = DivergenceMonitor()

    for step in range(1, 200):
        watch.update(0.001 if step < 5 else 0.05, step, recipe())

    assert watch.lowest > 0.04


def test_a_noisy_but_falling_loss_never_stops_the_training():
    watch, rng = DivergenceMonitor(), torch.Generator().manual_seed(0)

    for step in range(1, 2000):
        watch.update(float(torch.randn((), generator=rng).mul(0.8).exp()) * (0.1 + 10 / step), step, recipe())

    assert watch.lowest < 0.3


# Validation


def test_noisy_images_are_measured_as_the_network_s_output():
    images = source().validation(10)

    each = [psnr(image.clamp(0, 1), clean) for image, clean in zip(images.noisy, images.reference, strict=True)]
    assert noisy_psnr(images) == pytest.approx(sum(each) / 10, abs=1e-3)


def test_validation_measures_the_averaged_weights():
    state = new_train_state(recipe())
    run(state)
    trained, averaged = values(state), [value.clone() for value in state.ema.values]
    images = source().validation(10)

    measured = validate(state, images)

    assert all(map(torch.equal, values(state), trained))
    assert all(map(torch.equal, state.ema.values, averaged))
    state.ema.swap()
    outputs = state.net.forward(images.noisy).clamp(0, 1)
    each = [psnr(output, clean) for output, clean in zip(outputs, images.reference, strict=True)]
    assert measured == pytest.approx(sum(each) / 10, abs=1e-3)


def test_noisy_references_give_nearly_the_psnr_of_clean_ones():
    rng = torch.Generator().manual_seed(0)
    clean = torch.stack([waves(n).float() / 255 for n in range(20)])
    # Within the range of images: what is clipped has no independent noise.
    clean = 0.3 + 0.4 * clean
    noisy, reference = (clean + 0.05 * torch.randn(clean.shape, generator=rng) for _ in range(2))
    state = new_train_state(recipe())

    estimate = validate(state, ValidationSet(noisy, reference, 0.05**2))

    # A fresh network gives back its input.
    assert estimate == pytest.approx(-20 * math.log10(0.05), abs=0.1)


@pytest.mark.parametrize("other", [25, 5, 0], ids=["equal noise", "a mean of many", "a clean image"])
def test_pairs_of_unequal_noise_have_an_honest_psnr(other):
    clean = torch.rand(1, 64, 64, 3, generator=generator()).mul(100).add(80)
    shots = [
        [
            (clean[0] + sigma * torch.randn(64, 64, 3, generator=generator(seed))).round().to(torch.uint8)
            for seed, sigma in ((seed, 25), (seed + 50, other))
        ]
        for seed in range(4)
    ]
    images = RecordedPairs([(a, b) for a, b in shots], 64).validation(32)

    # Of both shots, as chance decides which is the input.
    expected = -10 * math.log10((25**2 + other**2) / 2 / 255**2)

    assert noisy_psnr(images) == pytest.approx(expected, abs=0.3)
    assert validate(new_train_state(recipe()), images) < 40


def test_an_error_that_the_references_hide_is_unknown():
    image = torch.full((1, 8, 8, 3), 0.5)

    assert noisy_psnr(ValidationSet(image, image + 0.1, 0.02)) is None
