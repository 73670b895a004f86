"""Change bound: what a network may change in each region, at most."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.imageio.image import WHITE
from engine.inference.change_bound import REGION, STRIP_REGIONS, bound_change
from tests.support.pixels import generator

# Of float32, as a share of white.
TOLERANCE = 1e-6
SIDES = st.sampled_from([1, 5, 31, 32, 33, 70, REGION * STRIP_REGIONS + 3])


def regions(image):
    """The squares of the image, and the rest at its right and lower ends."""
    return [part for rows in image.split(REGION) for part in rows.split(REGION, 1)]


def rms(change):
    return float(change.double().square().mean().sqrt())


def bounded(clean, noisy, bound):
    result = clean.clone()
    bound_change(result, noisy, bound)
    return result


def test_a_change_that_is_too_large_is_scaled_down_in_its_region():
    noisy = torch.zeros(REGION, 2 * REGION, 1)
    clean = noisy.clone()
    clean[:, :REGION] = 4.0
    clean[::2, REGION:] = 1.0

    result = bounded(clean, noisy, bound=1.0)

    # A change of 4 where noise makes 1: a sixteenth of its power is noise.
    assert torch.equal(result[:, :REGION], torch.full((REGION, REGION, 1), 4 / 16))
    assert torch.equal(result[:, REGION:], clean[:, REGION:])


def test_a_region_counts_its_own_pixels_alone_at_the_ends_of_an_image():
    noisy = torch.zeros(REGION + 1, REGION + 2, 3)
    clean = torch.full_like(noisy, 2.0)

    assert torch.equal(bounded(clean, noisy, bound=0.5), torch.full_like(noisy, 2 / 16))


@settings(deadline=None)
@given(
    SIDES,
    SIDES,
    st.sampled_from([1, 3]),
    st.sampled_from([torch.uint8, torch.uint16, torch.float32]),
    st.floats(0, 0.2),
    st.integers(0, 3),
)
def test_no_region_changes_by_more_than_the_bound(height, width, channels, dtype, share, seed):
    noisy, clean = (
        (torch.rand(height, width, channels, generator=generator(each)) * WHITE[dtype]).to(dtype)
        for each in (seed, seed + 10)
    )
    bound = share * WHITE[dtype]

    result = bounded(clean, noisy, bound)

    assert result.dtype == dtype
    before, after, wanted = noisy.double(), result.double(), clean.double()
    assert max(map(rms, regions(after - before))) <= bound + TOLERANCE * WHITE[dtype]
    # Every sample stays between what it was and what the network made of it.
    assert bool(((after - before) * (wanted - before) >= 0).all())
    assert bool(((after - before).abs() <= (wanted - before).abs()).all())
    parts = zip(*map(regions, (after, before, wanted)), strict=True)
    assert all(
        torch.equal(new, goal) for new, old, goal in parts if rms(goal - old) < bound - TOLERANCE * WHITE[dtype]
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_nothing_changes_where_nothing_may(dtype):
    noisy, clean = (torch.full((40, 40, 3), value).to(dtype) for value in (7, 9))
    clean[:32, :32] = 7

    assert torch.equal(bounded(clean, noisy, bound=0.0), noisy)
