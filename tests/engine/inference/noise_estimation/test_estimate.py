import pytest

from engine.imageio.read import read_rgb
from engine.inference.noise_estimation import Component, NoiseEstimate, estimate_noise, noise_kind
from tests.support.noise import DATA, needs_kodak

NONE = Component(0.0, (0.0, 0.0, 0.0), 1.0)


@pytest.mark.parametrize(
    ("sigma", "shared", "kind"),
    [(2.4, 0.35, "white"), (2.6, 0.35, "camera"), (2.4, 0.45, "camera"), (0.4, 0.7, "camera")],
)
def test_slight_noise_that_may_be_texture_counts_as_white(sigma, shared, kind):
    luma = Component(sigma, (shared, 0.0, 0.0), 0.5)

    assert noise_kind(NoiseEstimate((sigma,) * 3, luma, NONE, correlated=True)) == kind


@needs_kodak
def test_most_of_kodaks_clean_images_count_as_white():
    estimates = [estimate_noise(read_rgb(file)) for file in sorted((DATA / "kodak24").glob("*.png"))]

    assert [noise_kind(estimate) for estimate in estimates].count("white") >= 16
