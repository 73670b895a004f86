import gc
import math
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.imageio.image import Image, from_array, to_array
from engine.imageio.metadata import NO_METADATA, Metadata
from engine.inference.denoise import OutputOptions, TiledDenoiser, denoise, denoise_image
from engine.inference.tiling import GRID, run_batch
from engine.models.receptive_field import bytes_per_pixel, halo
from tests.support.memory import peak_bytes
from tests.support.networks import NETWORKS, image

ROOT = Path(__file__).parents[3]
sides = st.integers(1, 33) | st.integers(1, 170)


def test_an_image_need_not_be_contiguous():
    given_image = image(40, 70)
    transposed = given_image.transpose(0, 1)

    result = denoise_image(NETWORKS[0], transposed, window_size=(1, 1))

    torch.testing.assert_close(result, denoise_image(NETWORKS[0], transposed.contiguous()), rtol=0, atol=1e-5)


def test_the_result_is_not_clipped_and_the_input_not_changed():
    given_image = image(40, 40)
    before = given_image.clone()

    result = denoise_image(NETWORKS[0], given_image)

    assert result.min() < 0
    assert result.max() > 1
    assert torch.equal(given_image, before)


def test_many_threads_may_share_a_network():
    net = NETWORKS[1]
    images = [image(50 + 7 * n, 90 - 5 * n, seed=n) for n in range(8)]
    alone = [denoise_image(net, each, window_size=(1, 2)) for each in images]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda each: denoise_image(net, each, window_size=(1, 2)), images * 3))

    assert all(map(torch.equal, together, alone * 3))


# Samples of every depth


@st.composite
def file_images(draw):
    """Images of each kind that a file can hold."""
    height, width = draw(sides), draw(sides)
    dtype, channels = draw(st.sampled_from([(torch.uint8, 3), (torch.uint8, 1), (torch.uint16, 1)]))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    values = torch.randint(torch.iinfo(dtype).max + 1, (height, width, channels), generator=rng)
    has_alpha = dtype == torch.uint8 and draw(st.booleans())
    alpha = torch.randint(1, 256, (height, width), generator=rng).to(torch.uint8) if has_alpha else None
    return Image(values.to(dtype), alpha, Metadata(b"a profile"))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(NETWORKS[:2]), file_images(), st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_integers_are_the_float_result_clipped_and_rounded(net, noisy, window_size):
    before = noisy.samples.clone()
    colour = denoise_image(net, noisy.pixels, window_size=window_size)
    colour = colour.mean(2, keepdim=True) if noisy.grey else colour
    expected = (colour.clamp(0, 1) * torch.iinfo(noisy.samples.dtype).max).round().to(noisy.samples.dtype)

    clean = denoise(net, noisy, window_size=window_size)

    assert torch.equal(clean.samples, expected)
    assert clean.samples.dtype == expected.dtype
    assert (clean.alpha, clean.metadata) == (noisy.alpha, noisy.metadata)
    assert torch.equal(noisy.samples, before)


KINDS = [
    (torch.uint8, 1),
    (torch.uint8, 3),
    (torch.uint16, 1),
    (torch.uint16, 3),
    (torch.float32, 1),
    (torch.float32, 3),
]


def any_image(height, width, dtype, channels, alpha=None):
    """An image of noise. Floats reach beyond [0, 1]."""
    rng = torch.Generator().manual_seed(height)
    if dtype == torch.float32:
        samples = torch.rand(height, width, channels, generator=rng) * 3 - 1
    else:
        samples = torch.randint(torch.iinfo(dtype).max + 1, (height, width, channels), generator=rng).to(dtype)
    return Image(samples, alpha if alpha is None else alpha.to(dtype))


def test_floats_are_neither_clipped_nor_rounded():
    noisy = any_image(50, 40, torch.float32, 3)

    clean = denoise(NETWORKS[0], noisy, window_size=(1, 1))

    torch.testing.assert_close(clean.samples, denoise_image(NETWORKS[0], noisy.samples), rtol=0, atol=1e-5)
    assert clean.samples.min() < 0
    assert clean.samples.max() > 1


@pytest.mark.parametrize(("dtype", "channels"), KINDS)
def test_strength_0_returns_every_sample_unchanged(dtype, channels):
    hole = torch.ones(37, 45)
    hole[3:20, 8:30] = 0
    noisy = any_image(37, 45, dtype, channels, hole)

    for options in (OutputOptions(strength=0), OutputOptions(luma=0, chroma=0)):
        assert torch.equal(denoise(NETWORKS[0], noisy, options=options).samples, noisy.samples)


def test_strength_applies_that_share_of_the_change():
    noisy = any_image(40, 50, torch.float32, 3)
    change = denoise(NETWORKS[0], noisy).samples - noisy.samples

    half = denoise(NETWORKS[0], noisy, options=OutputOptions(strength=0.5)).samples

    torch.testing.assert_close(half, noisy.samples + change / 2)


def test_brightness_and_colour_are_denoised_separately():
    noisy, brightness = any_image(40, 50, torch.float32, 3), torch.tensor([0.299, 0.587, 0.114])
    change = denoise(NETWORKS[0], noisy).samples - noisy.samples

    luma = denoise(NETWORKS[0], noisy, options=OutputOptions(chroma=0)).samples - noisy.samples
    chroma = denoise(NETWORKS[0], noisy, options=OutputOptions(strength=0.5, luma=0)).samples - noisy.samples

    torch.testing.assert_close(luma, (change @ brightness)[..., None].expand_as(change), atol=1e-5, rtol=0)
    torch.testing.assert_close(chroma @ brightness, torch.zeros(40, 50), atol=1e-5, rtol=0)
    torch.testing.assert_close(luma + 2 * chroma, change, atol=1e-5, rtol=0)


def test_chroma_does_not_matter_for_a_grey_image():
    noisy = any_image(40, 50, torch.uint8, 1)

    assert torch.equal(
        denoise(NETWORKS[0], noisy, options=OutputOptions(chroma=0)).samples, denoise(NETWORKS[0], noisy).samples
    )


@pytest.mark.parametrize(("dtype", "channels"), KINDS)
def test_the_residual_is_what_was_removed_on_mid_grey(dtype, channels):
    noisy = any_image(40, 300, dtype, channels)
    white = 1 if dtype == torch.float32 else torch.iinfo(dtype).max
    removed = noisy.samples.double() - denoise(NETWORKS[0], noisy).samples.double()
    expected = removed / white + 0.5

    residual = denoise(NETWORKS[0], noisy, options=OutputOptions(output="residual")).samples

    expected = expected if dtype == torch.float32 else expected.clamp(0, 1)
    torch.testing.assert_close(
        residual.double() / white, expected, atol=0.51 / white if white > 1 else 1e-6, rtol=0
    )


@pytest.mark.parametrize(("dtype", "channels"), KINDS)
def test_compare_has_the_noisy_image_left_of_the_clean_one(dtype, channels):
    noisy = any_image(40, 30, dtype, channels, torch.ones(40, 30))
    clean = denoise(NETWORKS[0], noisy)

    both = denoise(NETWORKS[0], noisy, options=OutputOptions(output="compare"))

    assert torch.equal(both.samples[:, :30], noisy.samples)
    assert torch.equal(both.samples[:, 30:], clean.samples)
    assert both.alpha.shape == (40, 60)


@pytest.mark.parametrize("output", ["clean", "residual", "compare"])
def test_missing_samples_are_missing_in_every_output(output):
    values = image(40, 30)[..., :1].numpy()
    values[3:9, 4] = math.nan
    noisy = from_array(values, 32, NO_METADATA)

    found = to_array(denoise(NETWORKS[0], noisy, options=OutputOptions(output=output)))

    places = np.isnan(values[..., 0])
    np.testing.assert_array_equal(np.isnan(found), np.tile(places, (1, 2)) if output == "compare" else places)


def test_the_residual_of_integers_of_another_type_is_floats():
    noisy = from_array(np.full((40, 30), -7, np.int16), 16, NO_METADATA)

    residual = denoise(NETWORKS[0], noisy, options=OutputOptions(output="residual"))

    assert to_array(residual).dtype == np.float32


@pytest.mark.parametrize(("dtype", "channels"), KINDS)
def test_transparent_pixels_stay_and_do_not_bleed(dtype, channels):
    seen = torch.ones(300, 70)
    seen[20:280, 30:50] = 0
    seen[:5] = 0
    noisy = any_image(300, 70, dtype, channels, seen)
    other = torch.where(seen.bool().unsqueeze(2), noisy.samples, noisy.samples.flip(0))

    clean = denoise(NETWORKS[1], noisy, window_size=(2, 1))
    otherwise = denoise(NETWORKS[1], Image(other, noisy.alpha), window_size=(2, 1))

    assert torch.equal(clean.samples[seen == 0], noisy.samples[seen == 0])
    assert torch.equal(clean.samples[seen == 1], otherwise.samples[seen == 1])
    assert torch.equal(clean.alpha, noisy.alpha)


def test_transparent_pixels_leave_no_edge_in_a_plain_image():
    seen = torch.ones(64, 64)
    seen[10:40, 20:64] = 0
    seen[60:] = 0
    whole_one = torch.full((64, 64, 3), 90, dtype=torch.uint8)
    cut = whole_one.clone()
    cut[seen == 0] = 0

    clean = denoise(NETWORKS[0], Image(cut, seen.to(torch.uint8)))

    assert torch.equal(clean.samples[seen == 1], denoise(NETWORKS[0], Image(whole_one)).samples[seen == 1])


def test_a_fully_transparent_image_is_returned_unchanged():
    noisy = any_image(20, 30, torch.uint8, 3, torch.zeros(20, 30))

    assert torch.equal(denoise(NETWORKS[0], noisy).samples, noisy.samples)


def test_a_denoised_image_is_freed_without_garbage_collection():
    denoising = TiledDenoiser(NETWORKS[0], Image(image(40, 50)))
    for window in denoising.windows:
        run_batch([window])
    kept = [weakref.ref(each) for each in (denoising.noisy.samples, denoising.clean)]
    gc.disable()
    del denoising, window
    still = [each() is not None for each in kept]
    gc.enable()

    assert still == [False, False]


# Memory


@pytest.mark.parametrize(("dtype", "channels"), [(torch.uint8, 3), (torch.uint16, 1)])
def test_only_one_window_at_a_time_is_in_float32(dtype, channels):
    net, height, width, window_size = NETWORKS[0], 1500, 500, (2, 4)
    noisy = Image(torch.zeros(height, width, channels).to(dtype))
    side_pixels = [GRID * n + 2 * halo(net) for n in window_size]
    # The window's samples, its floats before and after the network, and the network's memory.
    for_window = math.prod(side_pixels) * (bytes_per_pixel(net) + 40)

    taken = peak_bytes(lambda: denoise(net, noisy, window_size=window_size))

    assert taken < noisy.samples.nbytes + for_window
    assert for_window < 4 * 3 * height * width, "the test would see the whole image in float32"


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the process's memory")
def test_a_large_file_takes_little_memory():
    """The image's float32 pixels alone would take 192 MB, and the result's as much again."""
    program = """
import resource, torch
from engine.inference.model_selection import fixed_selector
from engine.batch.tasks import DenoiseOptions, denoise_bytes
from engine.imageio.image import Image
from engine.imageio.write import encode_png
from engine.models.networks import build_network
from engine.models.unet import UNetConfig
torch.set_num_threads(1)
net = build_network(UNetConfig((2,), (0,)))
small = encode_png(Image(torch.zeros(64, 64, 3, dtype=torch.uint8)))
options = DenoiseOptions(memory_budget=8 * 2**20)
denoise_bytes(fixed_selector(net), small, options=options)
large = encode_png(Image(torch.zeros(4000, 4000, 3, dtype=torch.uint8)))
# From here on, the peak is that of decoding, denoising and encoding.
open("/proc/self/clear_refs", "w").write("5")
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
denoise_bytes(fixed_selector(net), large, options=options)
status = open("/proc/self/status").read()
after = int(status.split("VmHWM:")[1].split()[0]) / 1024
print(after - before)
"""
    output = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert not output.stderr
    # Samples of 48 MB twice, 64 MB for Pillow, the file, and a window's memory.
    assert float(output.stdout) < 260


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
@pytest.mark.parametrize("output", ["clean", "residual"])
def test_a_channel_that_is_the_same_everywhere_stays(dtype, output):
    white = 1 if dtype == torch.float32 else 255
    samples = (white * image(40, 50)).to(dtype)
    samples[..., 2] = samples[3, 3, 2]

    result = denoise(NETWORKS[0], Image(samples), options=OutputOptions(output=output)).samples

    assert len(result[..., 2].unique()) == 1
    if output == "clean":
        assert torch.equal(result[..., 2], samples[..., 2])
        assert not torch.equal(result[..., 1], samples[..., 1])


# Errors


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (torch.zeros(4, 4), r"got \(4, 4\) of torch.float32"),
        (torch.zeros(4, 4, 1), r"got \(4, 4, 1\) of torch.float32"),
        (torch.zeros(1, 4, 4, 3), r"got \(1, 4, 4, 3\) of torch.float32"),
        (torch.zeros(0, 4, 3), r"got \(0, 4, 3\) of torch.float32"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"got \(4, 4, 3\) of torch.uint8"),
    ],
)
def test_a_tensor_of_another_shape_or_type_is_refused(wrong, got):
    with pytest.raises(ValueError, match=rf"an image is \(H, W, 3\) of floats; {got}"):
        denoise_image(NETWORKS[0], wrong)
