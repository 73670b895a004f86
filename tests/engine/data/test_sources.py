import pytest
import torch

from engine.data import sources
from engine.data.noise.gaussian import GaussianNoise
from engine.data.noise.random_pixel import RandomPixelNoise
from engine.data.patch_store import concatenate_by_type
from engine.data.sources import (
    GeneratedPairs,
    MixedScenes,
    Photos,
    RecordedPairs,
    SyntheticImages,
    generated_pairs,
    held_out_count,
    photo_source,
)
from tests.support.pixels import generator, random_pixels

# No noise: what is drawn is the photo itself.
SILENT = GaussianNoise(0, 0)


def plain(value, height=20, width=24):
    """An image that says by its brightness which it is."""
    return torch.full((height, width, 3), value, dtype=torch.uint8)


def draw(scenes, count, side, rng, step=1):
    """(count, side, side, 3) on 0-255."""
    return torch.cat([batch.read() for batch in scenes.draw(count, side, step, rng)]) * 255


def open_with(*photos, noise=SILENT, patch=8, seed=0, patterns=0.0, **more):
    """photos: for training and for validation; none for synthetic images."""
    sources = (Photos(photos, tries=1), Photos(photos, tries=1)) if photos else None
    return generated_pairs(sources, noise, patch=patch, seed=seed, pattern_share=patterns, **more)


def seen_in_training(source, steps=60):
    """Brightness, 0-255, of every image that training draws."""
    rng = generator()
    batches = [source.draw(step, 4, rng) for step in range(1, steps + 1)]
    return {round(255 * value) for batch in batches for view in batch[:2] for value in view.unique().tolist()}


def seen_in_validation(source):
    images = source.validation(40)
    return {round(255 * value) for part in images[:2] for value in part.unique().tolist()}


@pytest.fixture
def cheap_leaves(monkeypatch):
    """Synthetic images that cost nothing; keeps a list of their first bytes, which tell them apart."""
    made = []

    def make(height, width, rng):
        image = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=rng)
        made.append(tuple(image.flatten()[:12].tolist()))
        return image

    monkeypatch.setattr(sources, "dead_leaves", make)
    monkeypatch.setattr(sources, "patterns", lambda height, width, rng: make(height, width, rng) // 8)
    return made


# Photos


@pytest.mark.parametrize(("scenes", "held_out"), [(2, 1), (7, 1), (12, 3), (60, 4), (199, 4), (1000, 20)])
def test_of_few_scenes_a_quarter_is_held_out(scenes, held_out):
    assert held_out_count(scenes) == held_out


def test_bytes_and_floats_are_drawn_as_often_as_there_are_photos():
    photos = [plain(10), plain(40).float() + 0.5, plain(20), plain(30)]
    parts = concatenate_by_type(("all", photo) for photo in photos)["all"]

    seen = draw(photo_source(parts, 1.0, 1), 800, 8, generator())[:, 0, 0, 0]

    counts = {value: int(seen.isclose(torch.tensor(value)).sum()) for value in (10.0, 20.0, 30.0, 40.5)}
    assert sum(counts.values()) == 800
    assert all(count == pytest.approx(200, abs=50) for count in counts.values())


# Crops of photos


def test_three_crops_in_four_are_where_there_is_most_detail():
    photo = torch.cat((plain(100, 40, 40), random_pixels(40, 8)), 1)

    def share_with_detail(tries):
        patches = draw(Photos([photo], tries=tries), 400, 8, generator())
        return (patches.std((1, 2, 3)) > 0).float().mean().item()

    # Eight places of 41 touch the speckles.
    assert share_with_detail(1) == pytest.approx(8 / 41, abs=0.08)
    assert share_with_detail(6) == pytest.approx(0.75 * (1 - (33 / 41) ** 6) + 0.25 * 8 / 41, abs=0.08)


def test_zoom_scales_crops_down():
    # Stripes of one pixel: averaging neighbours takes contrast from them.
    stripes = (torch.arange(100) % 2 * 255).to(torch.uint8).view(1, 100, 1).expand(100, 100, 3).contiguous()
    rng = generator()
    contrasts = draw(Photos([stripes], zoom=0.5), 50, 16, rng).std((1, 2, 3))

    assert (draw(Photos([stripes]), 5, 16, rng).std((1, 2, 3)) > 127).all()
    assert contrasts.min() < 60
    assert contrasts.max() > 80
    # Larger than half the photo: zoomed by less.
    assert draw(Photos([stripes], zoom=0.5), 20, 80, rng).shape == (20, 80, 80, 3)


# Synthetic images


def test_without_data_images_are_made(monkeypatch):
    monkeypatch.setattr(sources, "SYNTHETIC_SIDE", 24)
    monkeypatch.setattr(sources, "SYNTHETIC_POOL", 2)
    source = open_with(noise=GaussianNoise(25, 25))

    batch, images = source.draw(1, 2, generator()), source.validation(2)

    assert batch.noisy.shape == images.noisy.shape == (2, 8, 8, 3)
    assert images.reference.std() > 0


def test_no_held_out_synthetic_image_is_ever_drawn(cheap_leaves):
    source = open_with(noise=GaussianNoise(25, 25))
    source.validation(40)
    measured = set(cheap_leaves)
    cheap_leaves.clear()

    for step in range(0, 10_000, 50):
        source.draw(step, 4, generator(step))

    assert measured
    assert cheap_leaves
    assert not measured & set(cheap_leaves)


def test_a_synthetic_image_does_not_depend_on_earlier_ones(cheap_leaves):
    old, fresh = (
        SyntheticImages(sources.dead_leaves, seed=3, side=16),
        SyntheticImages(sources.dead_leaves, seed=3, side=16),
    )
    for step in range(1, 500):
        old.draw(1, 8, step, generator(step))

    assert torch.equal(draw(old, 5, 8, generator(7), 500), draw(fresh, 5, 8, generator(7), 500))


def test_synthetic_images_are_replaced_after_a_while(cheap_leaves, monkeypatch):
    monkeypatch.setattr(sources, "SYNTHETIC_POOL", 4)
    monkeypatch.setattr(sources, "SYNTHETIC_STEPS", 100)
    leaves = SyntheticImages(sources.dead_leaves, seed=0, side=16)
    rng = generator()

    for step in range(1, 100):
        leaves.draw(1, 8, step, rng)
    assert len(cheap_leaves) == 4

    for step in range(100, 1000):
        leaves.draw(1, 8, step, rng)
    # Four, and one more every hundred steps, each made once.
    assert len(cheap_leaves) == len(set(cheap_leaves)) == 13
    assert sorted(leaves.numbers) == [9, 10, 11, 12]


def test_images_are_made_large_enough_for_the_largest_blocks(cheap_leaves, monkeypatch):
    monkeypatch.setattr(sources, "SYNTHETIC_SIDE", 24)

    assert open_with(noise=RandomPixelNoise(10, 10)).draw(1, 1, generator()).noisy.shape == (1, 8, 8, 3)


def test_a_share_of_the_scenes_is_synthetic(cheap_leaves):
    source = open_with(plain(128), synthetic=0.25)

    assert isinstance(source.scenes, MixedScenes)
    batch = source.draw(1, 400, generator())
    assert (batch.noisy.flatten(1).std(1) > 0).float().mean().item() == pytest.approx(0.25, abs=0.08)
    # Validation uses photos alone.
    assert source.validation(30).noisy.std() == 0


@pytest.mark.parametrize("photographed", [False, True])
def test_a_share_of_the_scenes_is_patterns(cheap_leaves, photographed):
    source = open_with(*[plain(128)] * photographed, synthetic=0.5, patterns=0.25)

    batch = source.draw(1, 400, generator())

    # Patterns are the dark ones here.
    dark = batch.noisy.flatten(1).amax(1) < 0.13
    assert dark.float().mean().item() == pytest.approx(0.25, abs=0.08)
    assert source.validation(30).noisy.flatten(1).amax(1).min() > 0.13


def test_measured_scenes_come_unrounded_and_in_their_share(cheap_leaves, monkeypatch):
    monkeypatch.setattr(sources, "measured_scene", lambda height, width, rng: torch.full((height, width, 3), 0.3))
    source = open_with(patterns=0.5, measured_share=0.25)

    batch = source.draw(1, 400, generator())

    brightest = batch.noisy.flatten(1).amax(1)
    measured = torch.isclose(brightest, torch.tensor(0.3 / 255))
    assert measured.float().mean().item() == pytest.approx(0.25, abs=0.08)
    # Patterns are the dark ones here, and the measured scenes do not take from their share.
    assert (~measured & (brightest < 0.13)).float().mean().item() == pytest.approx(0.5, abs=0.08)


def test_scenes_may_all_be_measured(monkeypatch):
    monkeypatch.setattr(
        sources, "measured_scene", lambda height, width, rng: torch.full((height, width, 3), 51.0)
    )

    batch = open_with(measured_share=1.0).draw(1, 8, generator())

    assert torch.equal(batch.noisy, torch.full((8, 8, 8, 3), 0.2))


def test_validation_may_have_noise_of_its_own(cheap_leaves):
    source = open_with(noise=GaussianNoise(50, 50), held_out_noise=SILENT)

    held_out = source.validation(3)

    assert torch.equal(held_out.noisy, held_out.reference)
    assert not torch.equal(*source.draw(1, 3, generator())[:2])


# Augmentation


def test_every_sample_has_its_own_orientation():
    photo = torch.arange(64, dtype=torch.uint8).view(8, 8, 1).expand(8, 8, 3).contiguous()
    source = GeneratedPairs(Photos([photo]), Photos([photo]), SILENT, patch=8)

    batch = source.draw(1, 100, generator())

    assert len(batch.noisy.flatten(1).unique(dim=0)) == 8
    assert torch.equal(batch.noisy, batch.target)


# Recorded pairs


def recorded(count, patch=8, seed=0):
    """Pair number n is of brightness 10 n and 10 n + 1."""
    return RecordedPairs([(plain(10 * n), plain(10 * n + 1)) for n in range(count)], patch, seed)


def test_either_shot_of_a_pair_is_the_input():
    batch = recorded(4).draw(1, 200, generator())

    firsts, seconds = ((255 * view[:, 0, 0, 0]).round().int().tolist() for view in batch[:2])
    values = list(zip(firsts, seconds, strict=True))
    scenes = {(a // 10, b // 10) for a, b in values}
    assert len(scenes) == 3
    assert all(a == b for a, b in scenes)
    assert {(a % 10, b % 10) for a, b in values} == {(0, 1), (1, 0)}
    assert batch.weight.eq(1).all()


def test_no_held_out_recorded_pair_is_ever_drawn():
    held_out, drawn = seen_in_validation(recorded(8)), seen_in_training(recorded(8))

    assert len(held_out) == 4
    assert held_out | drawn == {10 * n + shot for n in range(8) for shot in (0, 1)}
    assert not held_out & drawn


def test_the_seed_draws_the_pairs_that_are_held_out():
    assert len({frozenset(seen_in_validation(recorded(8, seed=seed))) for seed in range(6)}) > 3
    assert seen_in_validation(recorded(8, seed=5)) == seen_in_validation(recorded(8, seed=5))


def test_the_references_noise_is_estimated_from_both_shots():
    scene = random_pixels(60, 60).float() * 0.5 + 60
    shots = [(scene + 10 * torch.randn(60, 60, 3, generator=generator(n))).to(torch.uint8) for n in range(4)]

    images = RecordedPairs([(shots[0], shots[1]), (shots[2], shots[3])], 32).validation(8)

    assert images.reference_noise == pytest.approx((10 / 255) ** 2, rel=0.05)


def test_each_shot_is_input_and_reference_in_validation():
    first, second = random_pixels(40, 40, 1), random_pixels(40, 40, 2)

    images = RecordedPairs([(first, second)] * 2, 32).validation(4)

    assert torch.equal(images.noisy[:4], images.reference[4:])
    assert torch.equal(images.noisy[4:], images.reference[:4])


def test_pairs_without_noise_are_refused_for_validation():
    with pytest.raises(ValueError, match="the two shots of each held-out pair are the same"):
        RecordedPairs([(random_pixels(20, 20), random_pixels(20, 20))] * 2, 8).validation(2)


def test_both_shots_are_cropped_at_the_same_place():
    shot = random_pixels(40, 60)

    batch = RecordedPairs([(shot, shot), (shot, shot)], 8).draw(1, 20, generator())

    assert torch.equal(batch.noisy, batch.target)
    assert len(batch.noisy.flatten(1).unique(dim=0)) == 20


@pytest.mark.parametrize(
    ("shots", "message"),
    [
        ([(plain(1), plain(2))], "at least 2 pairs are needed, 1 of them for validation; got 1"),
        ([(plain(1), plain(2)), (plain(1), plain(2, 21, 24))], "pair 1: .* differ in size, 24 x 20 and 24 x 21"),
        (
            [(plain(1, 6), plain(2, 6))] * 2,
            "pair 0: 24 x 6 pixels are fewer than a patch of 8 x 8; set a smaller",
        ),
    ],
)
def test_pairs_that_do_not_fit_are_refused(shots, message):
    with pytest.raises(ValueError, match=message):
        RecordedPairs(shots, 8)


def test_both_shots_have_the_same_orientation():
    shot = torch.arange(64, dtype=torch.uint8).view(8, 8, 1).expand(8, 8, 3).contiguous()

    batch = RecordedPairs([(shot, shot + 64)] * 2, 8).draw(1, 100, generator())

    difference = (255 * (batch.target - batch.noisy)).round()
    assert len((batch.noisy % (64 / 255)).mul(255).round().flatten(1).unique(dim=0)) == 8
    assert ((difference == 64).flatten(1).all(1) | (difference == -64).flatten(1).all(1)).all()
    assert 0.3 < (difference[:, 0, 0, 0] > 0).float().mean() < 0.7
