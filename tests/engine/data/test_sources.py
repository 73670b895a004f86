import pytest
import torch

from engine.data import sources
from engine.data.noise.gaussian import GaussianNoise
from engine.data.noise.random_pixel import RandomPixelNoise
from engine.data.sources import (
    GeneratedPairs,
    MixedScenes,
    Photos,
    RecordedPairs,
    SyntheticImages,
    open_pair_source,
)
from tests.support.pixels import generator, random_pixels, write_image

# No noise: what is drawn is the photo itself.
SILENT = GaussianNoise(0, 0)


def plain(value, height=20, width=24):
    """An image that says by its brightness which it is."""
    return torch.full((height, width, 3), value, dtype=torch.uint8)


def draw(scenes, count, side, rng, step=1):
    """(count, side, side, 3) on 0-255."""
    return torch.cat([batch.read() for batch in scenes.draw(count, side, step, rng)]) * 255


def open_with(*data, noise=SILENT, patch=8, seed=0, synthetic=0.0, zoom=1.0, tries=1, patterns=0.0, **more):
    return open_pair_source(
        data,
        noise,
        patch=patch,
        seed=seed,
        synthetic=synthetic,
        pattern_share=patterns,
        zoom=zoom,
        tries=tries,
        **more,
    )


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


# A folder of photos


def test_no_held_out_photo_is_ever_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "HOLD_OUT_EVERY", 3)
    for number in range(7):
        write_image(tmp_path / f"{number}.png", plain(30 * number))

    source = open_with(tmp_path)

    assert seen_in_validation(source) == {0, 90, 180}
    assert seen_in_training(source) == {30, 60, 120, 150}


def test_several_folders_of_photos_are_one(tmp_path):
    for number, folder in enumerate(("a", "b", "b")):
        write_image(tmp_path / folder / f"{number}.png", plain(50 * number))

    source = open_with(tmp_path / "a", tmp_path / "b")

    assert seen_in_training(source) | seen_in_validation(source) == {0, 50, 100}


def test_a_single_photo_is_too_few(tmp_path):
    write_image(tmp_path / "only.png", plain(1))

    with pytest.raises(ValueError, match="at least 2 photos are needed, 1 of them for validation; found 1"):
        open_with(tmp_path)


def test_photos_smaller_than_a_patch_are_refused_when_drawn(tmp_path):
    for name in "ab":
        write_image(tmp_path / f"{name}.png", plain(1, height=7))

    with pytest.raises(ValueError, match="no photo is large enough to cut 8 x 8 pixels from"):
        open_with(tmp_path).draw(1, 1, generator())


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: expected a folder or a file of pairs \(.pkl or .pt\)"):
        open_with(tmp_path / "nowhere")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path.name}: no images"):
        open_with(tmp_path)


def test_a_batch_has_its_shape_its_type_and_its_weights(tmp_path):
    for name in "ab":
        write_image(tmp_path / f"{name}.png", random_pixels(30, 30))

    batch = open_with(tmp_path, noise=GaussianNoise(5, 50)).draw(1, 6, generator())

    assert batch.noisy.shape == batch.target.shape == (6, 8, 8, 3)
    assert {part.dtype for part in batch} == {torch.float32}
    assert batch.noisy.is_contiguous()
    assert batch.weight.shape == (6,)
    assert len(batch.weight.unique()) == 6


def test_validation_is_clean_and_the_same_each_time(tmp_path):
    for name in "ab":
        write_image(tmp_path / f"{name}.png", random_pixels(30, 30))
    source = open_with(tmp_path, noise=GaussianNoise(25, 25))

    first, second = source.validation(5), source.validation(5)

    assert first.reference_noise == 0
    assert torch.equal(first.noisy, second.noisy)
    assert (first.reference * 255 - (first.reference * 255).round()).abs().max() < 1e-4
    assert (first.noisy - first.reference).std().item() == pytest.approx(25 / 255, rel=0.15)


@pytest.mark.parametrize("noise", [GaussianNoise(10, 40), RandomPixelNoise(2, 3)])
def test_a_step_draws_the_same_batch_from_the_same_state(tmp_path, noise):
    for number in range(3):
        write_image(tmp_path / f"{number}.png", random_pixels(40, 50, number))

    first, second = (
        open_with(tmp_path, noise=noise, zoom=0.6, tries=3).draw(9, 4, generator(5)) for _ in range(2)
    )

    assert all(map(torch.equal, first, second))


def test_random_pixel_views_come_from_patches_of_their_scale(tmp_path):
    for name in "ab":
        write_image(tmp_path / f"{name}.png", random_pixels(40, 40))

    source = open_with(tmp_path, noise=RandomPixelNoise(5, 5))

    assert source.draw(1, 2, generator()).noisy.shape == (2, 8, 8, 3)
    assert source.validation(2).noisy.shape == (2, 8, 8, 3)


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


def test_a_share_of_the_scenes_is_synthetic(tmp_path, cheap_leaves):
    for name in "ab":
        write_image(tmp_path / f"{name}.png", plain(128))
    source = open_with(tmp_path, synthetic=0.25)

    assert isinstance(source.scenes, MixedScenes)
    batch = source.draw(1, 400, generator())
    assert (batch.noisy.flatten(1).std(1) > 0).float().mean().item() == pytest.approx(0.25, abs=0.08)
    # Validation uses photos alone.
    assert source.validation(30).noisy.std() == 0


@pytest.mark.parametrize("photographed", [False, True])
def test_a_share_of_the_scenes_is_patterns(tmp_path, cheap_leaves, photographed):
    if photographed:
        for name in "ab":
            write_image(tmp_path / f"{name}.png", plain(128))
    source = open_with(*[tmp_path] * photographed, synthetic=0.5, patterns=0.25)

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


def recorded(count, patch=8):
    """Pair number n is of brightness 10 n and 10 n + 1."""
    return RecordedPairs([(plain(10 * n), plain(10 * n + 1)) for n in range(count)], patch)


def test_either_shot_of_a_pair_is_the_input():
    batch = recorded(4).draw(1, 200, generator())

    firsts, seconds = ((255 * view[:, 0, 0, 0]).round().int().tolist() for view in batch[:2])
    values = list(zip(firsts, seconds, strict=True))
    assert {(a // 10, b // 10) for a, b in values} == {(0, 0), (1, 1), (2, 2)}
    assert {(a % 10, b % 10) for a, b in values} == {(0, 1), (1, 0)}
    assert batch.weight.eq(1).all()


def test_no_held_out_recorded_pair_is_ever_drawn(monkeypatch):
    monkeypatch.setattr(sources, "HOLD_OUT_EVERY", 3)

    source = recorded(7)

    assert seen_in_validation(source) == {50, 51, 60, 61}
    assert seen_in_training(source) == {10 * n + shot for n in range(5) for shot in (0, 1)}


def test_the_references_noise_is_estimated_from_both_shots():
    scene = random_pixels(60, 60).float() * 0.5 + 60
    shots = [(scene + 10 * torch.randn(60, 60, 3, generator=generator(n))).to(torch.uint8) for n in range(4)]

    images = RecordedPairs([(shots[0], shots[1]), (shots[2], shots[3])], 32).validation(8)

    assert images.reference_noise == pytest.approx((10 / 255) ** 2, rel=0.05)


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


# Files and folders of pairs


def stack(count=3, height=10, width=12, seed=0):
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator(seed))


def test_a_file_of_pairs_is_a_source(tmp_path):
    torch.save((stack(seed=1), stack(seed=2)), tmp_path / "pairs.pkl")

    source = open_with(tmp_path / "pairs.pkl")

    assert isinstance(source, RecordedPairs)
    assert source.draw(1, 2, generator()).noisy.shape == (2, 8, 8, 3)


def test_pairs_and_photos_are_not_mixed(tmp_path):
    torch.save((stack(), stack()), tmp_path / "pairs.pt")
    write_image(tmp_path / "photos" / "a.png", plain(1))

    with pytest.raises(ValueError, match="recorded pairs and photos cannot be mixed"):
        open_with(tmp_path / "pairs.pt", tmp_path / "photos")


def test_several_recorded_sources_are_one(tmp_path):
    torch.save((stack(), stack()), tmp_path / "a.pt")
    torch.save((stack(4), stack(4)), tmp_path / "b.pkl")

    source = open_with(tmp_path / "a.pt", tmp_path / "b.pkl")

    assert len(source.training) + len(source.held_out) == 7
