"""Pairs of shots: which shots meet, at which places, and what is not learnt from."""

import pytest
import torch

from engine.adaptation.pairs import MixedPairs, ShotPairs, SplitShots, pair_source, split
from engine.data.registration import move
from engine.data.rng import seeded_generator
from engine.layers import SubpixelShift
from engine.layers.subpixel_shift import REACH
from tests.support.bursts import scene
from tests.support.scenes_of_shots import SIDE, numbered, scene_of

PATCH = 16


def drawn_pairs(source, count=400):
    batch = source.draw(1, count, seeded_generator(1))
    return {
        (round(float(a)), round(float(b)))
        for a, b in zip(batch.noisy[:, 0, 0, 0], batch.target[:, 0, 0, 0], strict=True)
    }


def test_every_two_shots_are_a_pair_both_ways():
    pairs = drawn_pairs(ShotPairs([scene_of(numbered(3))], PATCH))

    assert pairs == {(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)}


def test_shots_that_share_noise_are_no_pair():
    pairs = drawn_pairs(ShotPairs([scene_of(numbered(4), lag=3)], PATCH))

    assert pairs == {(0, 3), (3, 0)}


def test_shots_of_different_scenes_are_no_pair():
    first, second = scene_of(numbered(2)), scene_of([shot + 10 for shot in numbered(2)])

    assert drawn_pairs(ShotPairs([first, second], PATCH)) == {(0, 1), (1, 0), (10, 11), (11, 10)}


def test_samples_of_any_range_pass_without_clipping():
    shots = [torch.randn(SIDE, SIDE, 1, generator=seeded_generator(n)) * 3e4 - 1e3 for n in range(2)]
    source = ShotPairs([scene_of(shots)], SIDE, turn=False)

    batch = source.draw(1, 20, seeded_generator(2))

    for noisy in batch.noisy:
        flips = [shot.flip(axes) if axes else shot for shot in shots for axes in ([], [0], [1], [0, 1])]
        assert any(torch.allclose(noisy[..., :1], each, rtol=1e-5) for each in flips)


def test_grey_has_three_equal_channels():
    batch = ShotPairs([scene_of(numbered(2))], PATCH).draw(1, 3, seeded_generator(1))

    assert batch.noisy.shape == batch.target.shape == (3, PATCH, PATCH, 3)
    assert batch.weight.shape == (3, PATCH, PATCH, 1)
    assert (batch.noisy == batch.noisy[..., :1]).all()


def test_masked_pixels_of_either_shot_have_no_weight():
    usable = [torch.ones(PATCH, PATCH, dtype=torch.bool) for _ in range(2)]
    usable[0][2, 3] = usable[1][9, 4] = False
    batch = ShotPairs([scene_of(numbered(2, PATCH), usable=usable)], PATCH).draw(1, 8, seeded_generator(1))

    assert (batch.weight.sum((1, 2, 3)) == PATCH**2 - 2).all()


def test_shifts_are_undone_by_whole_pixels():
    place = torch.arange(SIDE * SIDE).float().view(SIDE, SIDE, 1)
    moved = place.roll((3, -5), (0, 1))
    source = ShotPairs([scene_of([place, moved], shifts=[(0, 0), (3, -5)])], PATCH)

    batch = source.draw(1, 50, seeded_generator(1))

    assert torch.equal(batch.noisy, batch.target)


def test_patches_with_rows_are_not_transposed():
    rows = torch.arange(SIDE).float().view(-1, 1, 1).expand(SIDE, SIDE, 1)
    source = ShotPairs([scene_of([rows, rows])], PATCH, turn=False)

    noisy = source.draw(1, 50, seeded_generator(1)).noisy

    assert (noisy == noisy[:, :, :1]).all()


def test_a_single_shot_is_split_into_neighbours():
    place = torch.arange(4 * PATCH * PATCH).float().view(1, 2 * PATCH, 2 * PATCH, 1)

    first, second = split(place, seeded_generator(1))

    down = [each.long() // (2 * PATCH) for each in (first, second)]
    right = [each.long() % (2 * PATCH) for each in (first, second)]
    assert ((down[0] - down[1]).abs() + (right[0] - right[1]).abs() == 1).all()
    cells = torch.arange(PATCH)
    assert all((each[0, ..., 0] // 2 == cells.view(-1, 1)).all() for each in down)
    assert all((each[0, ..., 0] // 2 == cells).all() for each in right)


def test_split_halves_have_independent_noise():
    noise = torch.randn(SIDE * 4, SIDE * 4, 1, generator=seeded_generator(3))
    batch = SplitShots([scene_of([noise], "single")], PATCH).draw(1, 200, seeded_generator(4))

    product = (batch.noisy * batch.target).mean()
    assert abs(float(product)) < 0.02
    assert float(batch.target.square().mean()) == pytest.approx(1, abs=0.05)


def test_kinds_of_scenes_are_mixed():
    source = pair_source([scene_of(numbered(2)), scene_of([numbered(1)[0] + 7], "single")], PATCH)

    assert isinstance(source, MixedPairs)
    assert drawn_pairs(source) == {(0, 1), (1, 0), (7, 7)}


def test_batches_repeat():
    source = pair_source([scene_of(numbered(3))], PATCH)

    first, second = (source.draw(1, 8, seeded_generator(5)) for _ in range(2))

    assert all(torch.equal(a, b) for a, b in zip(first[:3], second[:3], strict=True))


def test_a_patch_that_is_too_large_is_refused():
    with pytest.raises(ValueError, match="Set a smaller patch"):
        ShotPairs([scene_of(numbered(2))], SIDE + 1)
    with pytest.raises(ValueError, match="Set a smaller patch"):
        SplitShots([scene_of(numbered(1), "single")], SIDE)


def test_a_part_of_a_pixel_becomes_the_shift_of_a_batch():
    source = ShotPairs([scene_of(numbered(2), shifts=[(0.0, 0.0), (2.25, -0.4)])], PATCH, turn=False)

    batch = source.draw(1, 40, seeded_generator(1))

    assert batch.shift.abs().unique(dim=0).tolist() == [[0.25, pytest.approx(0.4)]]
    assert len(batch.shift.sign().unique(dim=0)) == 4
    assert (batch.weight.sum((1, 2, 3)) == (PATCH - 2 * REACH) ** 2).all()


def test_the_moved_noisy_patch_lies_on_its_target():
    light = scene(3, 64).unsqueeze(2)
    shots = [light, move(light, 0.3, -0.45)]
    source = ShotPairs([scene_of(shots, shifts=[(0.0, 0.0), (0.3, -0.45)])], 32)

    batch = source.draw(1, 60, seeded_generator(1))
    moved = SubpixelShift().forward(batch.noisy, batch.shift)

    after = (batch.weight * (moved - batch.target)).square().mean()
    before = (batch.weight * (batch.noisy - batch.target)).square().mean()
    assert after < before / 100


def test_shots_that_hardly_move_have_no_shift():
    source = ShotPairs([scene_of(numbered(2), shifts=[(0.0, 0.0), (0.01, 3.005)])], PATCH)

    assert source.draw(1, 20, seeded_generator(1)).shift is None
