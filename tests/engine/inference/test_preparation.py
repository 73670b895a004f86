"""Preparation: which steps an image gets, and what comes back."""

import math
from dataclasses import replace

import pytest
import torch

from engine.data.noise.anscombe import NoiseLaw
from engine.imageio.formats import FORMATS
from engine.imageio.image import Image, to_array
from engine.inference.denoise import OutputOptions, denoise
from engine.inference.noise_estimation import estimate_noise
from engine.inference.noise_estimation.pages import typical_page
from engine.inference.normalisation import normalisation_for
from engine.inference.preparation import (
    NO_PREPARATION,
    Preparation,
    PreparationOptions,
    prepare,
    prepare_pages,
    steps_for,
    words_of,
)
from engine.layers import Sequential
from tests.support.measured import PEDESTAL, as_counts, cells, expected, recorded
from tests.support.networks import NETWORKS, Averaging
from tests.support.noise import leaves, noise
from tests.support.pixels import generator

PHOTONS = 30


class Blur(Sequential):
    """Averages 3 x 3 pixels, and adds an error."""

    def __init__(self, error=0.0):
        super().__init__(NETWORKS[0])
        self.error = error

    def forward(self, x, train=False):
        shifts = ((down, across) for down in (-1, 0, 1) for across in (-1, 0, 1))
        return sum(x.roll(shift, (1, 2)) for shift in shifts) / 9 + self.error


def counts():
    return as_counts(recorded(cells(), PHOTONS))


def prepared(samples, **options):
    return prepare(samples, estimate_noise(samples), PreparationOptions(**options))


def run(samples, net=None, output=None, **options):
    preparation = prepared(samples, **options)
    result = denoise(net or Blur(), Image(samples), options=output or OutputOptions(), preparation=preparation)
    return result.samples


@pytest.mark.parametrize("sigma", [0, 10, 25])
def test_a_photograph_gets_no_steps(sigma):
    clean = leaves()
    noisy = ((clean + sigma / 255 * noise(clean)).clamp(0, 1) * 255).round().to(torch.uint8)

    preparation = prepared(noisy)

    assert replace(preparation, max_change=math.inf) == NO_PREPARATION
    assert math.isfinite(preparation.max_change) == (sigma == 0)


def test_counts_of_photons_are_made_even_and_the_total_stays():
    samples = counts()
    preparation = prepared(samples)

    result = run(samples, Blur(error=-0.05), finer=True)

    assert preparation.keep_mean
    assert preparation.words[0].startswith("photon noise made even")
    assert float(result.double().mean()) == pytest.approx(float(samples.double().mean()), rel=1e-5)


def test_the_steps_can_be_left_out():
    assert prepared(counts(), normalise=False) == NO_PREPARATION


def test_coarse_counts_become_floats_in_the_same_units_if_the_format_holds_them():
    samples = counts()

    whole, finer = run(samples), run(samples, finer=True)

    assert whole.dtype == torch.uint16
    assert finer.dtype == torch.float32
    assert float((whole.float() - finer).abs().max()) <= 0.5001
    truth = expected(cells(), PHOTONS).unsqueeze(2)
    assert float((finer - truth).square().mean()) < float((whole.float() - truth).square().mean())


def test_fine_counts_stay_whole():
    samples = as_counts(100 * (recorded(cells(), PHOTONS) - PEDESTAL) + 1000)

    assert prepared(samples, finer=True).keep_mean
    assert run(samples, finer=True).dtype == torch.uint16


@pytest.mark.parametrize(
    ("format_", "output", "allowed"),
    [("tiff", "clean", True), ("tiff", "compare", False), ("tiff", "residual", False), ("png", "clean", False)],
)
def test_floats_need_a_format_that_holds_them(format_, output, allowed):
    assert steps_for(PreparationOptions(), FORMATS[format_], output, [Image(counts())]).finer is allowed


def may_be_floats(*pages):
    return steps_for(PreparationOptions(), FORMATS["tiff"], "clean", pages).finer


def test_floats_need_counts_without_transparency_on_all_pages():
    page = Image(counts())
    shown = replace(page, alpha=torch.full(page.samples.shape[:2], 65535).to(torch.uint16))
    bytes_ = Image((page.samples.float() / 8).to(torch.uint8))
    signed = Image(page.samples.float(), stored="int16")

    assert all(may_be_floats(each, each) for each in (page, bytes_, signed))
    assert not any(may_be_floats(page, each) for each in (shown, bytes_, signed))


def few_photons(dtype):
    """Soft spots of up to 2 photons, one count each: rounded, most of the light would be lost."""
    photons = torch.poisson(2 * cells(), generator=generator()).float().unsqueeze(2)
    return Image(photons, stored=dtype) if dtype.startswith("int") else Image(photons.to(getattr(torch, dtype)))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32"])
def test_the_total_of_few_photons_stays_in_floats_or_its_loss_is_told(dtype):
    image = few_photons(dtype)
    estimate = estimate_noise(image.samples)

    totals, words = {}, {}
    for name in ("tiff", "png"):
        preparation = prepare(
            image.samples, estimate, steps_for(PreparationOptions(), FORMATS[name], "clean", [image])
        )
        clean = denoise(Blur(), image, preparation=preparation)
        totals[name], words[name] = to_array(clean).mean(), " ".join(preparation.words)

    truth = float(image.samples.float().mean())
    assert totals["tiff"] == pytest.approx(truth, rel=0.01)
    assert "32-bit floats" in words["tiff"]
    assert "format=tiff gives floats" in words["png"]
    assert totals["png"] < 0.9 * truth


@pytest.mark.parametrize("offset", [-2.0, 4.0])
def test_an_offset_does_not_change_the_result(offset):
    clean = leaves()[..., :1]
    noisy = (clean + 20 / 255 * noise(clean)).clamp(0, 1)

    result = run(noisy + offset, NETWORKS[0])

    normal = run(noisy, NETWORKS[0])
    assert float((result - offset - normal).abs().mean()) < 2e-3


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_strength_is_a_share_of_the_change_in_the_files_units(strength):
    samples = counts()
    full = run(samples, finer=True).float()

    part = run(samples, output=OutputOptions(strength=strength), finer=True).float()

    wanted = samples.float() + strength * (full - samples.float())
    assert float((part - wanted).abs().max()) < (1e-2 if strength else 1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_of_an_image_with_steps_fit_together(channels):
    samples = counts().expand(-1, -1, channels).contiguous()
    preparation = prepared(samples)
    whole = denoise(NETWORKS[0], Image(samples), preparation=preparation).samples

    tiled = denoise(NETWORKS[0], Image(samples), window_size=(2, 1), preparation=preparation).samples

    assert int((whole.to(torch.int32) - tiled.to(torch.int32)).abs().max()) <= 1


def test_hidden_pixels_keep_their_counts():
    samples = counts()
    alpha = torch.full(samples.shape[:2], 65535).to(torch.uint16)
    alpha[:50] = 0

    result = denoise(Blur(), Image(samples, alpha), preparation=prepared(samples, finer=True)).samples

    assert torch.equal(result[:50], samples[:50].to(result.dtype))


def drawing(kind):
    """uint8 (96, 128, 3)."""
    rows, columns = torch.meshgrid(torch.arange(96), torch.arange(128), indexing="ij")
    if kind == "two-valued":
        plane = 255 * ((rows // 7 + columns // 5) % 2)
    elif kind == "palette":
        plane = 40 * ((rows // 24) + (columns // 32))
    else:
        plane = columns + 40 * (rows // 24)
    # Colours: a palette holds 256 at most.
    colour = plane.unsqueeze(2).expand(-1, -1, 3).clone()
    if kind == "computer-drawn":
        colour[..., 1] = 2 * rows
    return colour.to(torch.uint8)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("two-valued", "an image of two values"),
        ("palette", "a drawing in few colours"),
        ("computer-drawn", "a computer drawing"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_a_drawing_stays_as_it_is_unless_it_is_forced(kind, words, dtype):
    samples = drawing(kind)
    if dtype != torch.uint8:
        samples = (samples.to(torch.int32) * 257).to(torch.uint16) if dtype == torch.uint16 else samples / 255

    assert prepared(samples).words == (f"unchanged: {words} is certainly clean",)
    assert torch.equal(run(samples), samples)
    assert prepared(samples, force=True).unchanged == ""
    assert not torch.equal(run(samples, force=True), samples)


def test_a_clean_photograph_changes_by_no_more_than_the_noise_it_can_have():
    samples = (leaves() * 255).round().to(torch.uint8)
    preparation = prepared(samples)

    change = (run(samples).float() - samples.float()).square().mean(2)

    means = [float(part.mean()) for rows in change.split(32) for part in rows.split(32, 1)]
    assert max(means) ** 0.5 <= preparation.max_change < 4
    assert prepared(samples, force=True).max_change == math.inf


@pytest.mark.parametrize("span", [1.0, 300.0, 1e-3])
def test_the_bound_does_not_depend_on_unit_and_offset(span):
    clean = leaves()[..., :1]

    bound = prepared(3 * span + span * clean).max_change

    assert bound == pytest.approx(span * prepared(3 + clean).max_change, rel=0.05)
    assert math.isfinite(bound)


def photograph_with(dirt):
    clean = (leaves() * 255).round()
    rng = torch.Generator().manual_seed(1)
    if dirt == "impulses":
        hit = torch.rand(clean.shape[:2], generator=rng)
        dirty = clean.clone()
        dirty[hit < 0.02], dirty[hit > 0.98] = 0, 255
    else:
        dirty = clean + 6 * torch.randn(len(clean), 1, 1, generator=rng) + 2 * noise(clean)
    return clean, dirty.clamp(0, 255).round().to(torch.uint8)


@pytest.mark.parametrize(("dirt", "words"), [("impulses", "impulses replaced"), ("banding", "offsets removed")])
def test_impulses_and_banding_are_taken_away_and_told(dirt, words):
    clean, dirty = photograph_with(dirt)
    net = Averaging(1)

    kept, mended = run(dirty, net, **{dirt: False}), run(dirty, net)

    assert words in "; ".join(prepared(dirty).words)
    assert prepared(dirty, **{dirt: False}).words == ()
    assert torch.equal(kept, dirty)
    assert float((mended - clean).square().mean()) < 0.4 * float((dirty - clean).square().mean())


def pages_of(*pages):
    return [each if each.dim() == 3 else each.unsqueeze(2) for each in pages]


def test_the_pages_of_a_file_share_their_steps():
    pages = pages_of(counts(), counts().flip(0))

    steps = prepare_pages(pages, estimate_noise(pages[0]), PreparationOptions())

    assert steps[0] is steps[1]
    assert words_of(steps)[0].startswith("photon noise made even")


@pytest.mark.parametrize(
    "blank", [torch.full((192, 192), 7), 60000 * (torch.arange(192) // 20 % 2).expand(192, -1)]
)
def test_a_blank_or_drawn_page_stays_as_it_is_and_does_not_decide(blank):
    pages = pages_of(blank.to(torch.int32).to(torch.uint16), counts())
    typical = typical_page(pages)

    steps = prepare_pages(pages, estimate_noise(typical), PreparationOptions(finer=True))

    assert typical is pages[1]
    assert steps[1].as_float
    assert words_of(steps)[0].startswith("photon noise made even")
    result = denoise(Blur(), Image(pages[0]), preparation=steps[0]).samples
    # All pages of a file have one type.
    assert torch.equal(result, pages[0].float())


def test_pages_of_another_depth_or_colour_have_steps_of_their_own():
    grey = counts()
    pages = [grey, (leaves() * 255).round().to(torch.uint8), grey.expand(-1, -1, 3).contiguous()]

    steps = prepare_pages(pages, estimate_noise(grey), PreparationOptions())

    assert steps[1].normalisation is None
    assert len(steps[2].normalisation.transforms) == 3
    for page, each in zip(pages, steps, strict=True):
        result = denoise(Averaging(1), Image(page), preparation=each).samples
        assert result.dtype == page.dtype
        assert float((result.float() - page.float()).square().mean()) < 1


@pytest.mark.parametrize("output", ["residual", "compare"])
def test_the_other_outputs_show_measured_images_in_their_own_units(output):
    samples = counts()
    clean = run(samples).to(torch.int32)

    shown = run(samples, output=OutputOptions(output=output), finer=False).to(torch.int32)

    if output == "compare":
        assert torch.equal(shown, torch.cat((samples.to(torch.int32), clean), 1))
    else:
        assert torch.equal(shown - 32768, samples.to(torch.int32) - clean)


@pytest.mark.parametrize("step", [0.5, 1.0])
@pytest.mark.parametrize("as_float", [True, False])
def test_a_warm_scene_of_few_counts_does_not_become_noisier(step, as_float):
    # It goes on at the other side, as the network sees it.
    axis = torch.arange(256) * 2 * math.pi / 256
    truth = 30000 + 50 * (2 + axis.sin() + axis.cos().unsqueeze(1)).unsqueeze(2)
    samples = as_counts((truth + step * noise(truth)).squeeze(2))
    samples = samples.float() if as_float else samples

    error, before = (float((x.float() - truth).square().mean()) for x in (run(samples), samples))

    assert error < before


def test_bright_points_keep_their_light():
    rng = torch.Generator().manual_seed(0)
    points = torch.zeros(192, 192, dtype=torch.float64)
    points[8::16, 8::16] = 1
    spread = sum(
        a * b * points.roll((i - 2, j - 2), (0, 1)) / 256
        for i, a in enumerate((1, 4, 6, 4, 1))
        for j, b in enumerate((1, 4, 6, 4, 1))
    )
    scene = 200 + 200_000 * spread
    samples = as_counts(torch.poisson(scene, generator=rng))
    preparation = Preparation(normalisation=normalisation_for(samples, [NoiseLaw(1, 0, 0)]), keep_mean=True)

    result = denoise(Dimmed(), Image(samples), preparation=preparation).samples[..., 0].double()

    bright = scene > 1000
    assert float(result[bright].sum() / scene[bright].sum()) == pytest.approx(1, abs=0.003)


class Dimmed(Averaging):
    """Changes nothing but the scale."""

    def __init__(self):
        super().__init__(1)

    def forward(self, x, train=False):
        return 0.99 * x
