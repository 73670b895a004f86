import gc
import math
import subprocess
import sys
import weakref
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from engine.imageio.image import Image
from engine.imageio.metadata import Metadata
from engine.inference.denoise import (
    PATCH,
    Denoising,
    Finish,
    denoise,
    denoise_image,
    mirror,
    plan,
    run,
    spans,
)
from engine.layers import Arena, Conv2d, ReLU, Sequential, Upsampling, parameters
from engine.models.autoencoder import AutoencoderConfig
from engine.models.networks import build_network
from engine.models.receptive_field import bytes_per_pixel, halo
from engine.models.unet import UNetConfig
from tests.support.oracle import PATHS, randomised

ROOT = Path(__file__).parents[3]


def network(spec):
    net = randomised(build_network(spec))
    for parameter in parameters(net):
        parameter.layer.params[parameter.key] = parameter.value.float()
    return net


def image(height, width, seed=0):
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


def whole(net, given_image):
    """The network run once on all of the mirrored image, which numpy mirrors."""
    height, width, _ = given_image.shape
    below, right = -height % PATCH, -width % PATCH
    mirrored = np.pad(given_image.numpy(), ((0, below), (0, right), (0, 0)), mode="reflect")
    return net.forward(torch.from_numpy(mirrored).unsqueeze(0))[0, :height, :width]


# Halos of 10, 32 and 88 and, in the two readings of the report, 4: within a patch, a patch, beyond the next.
NETWORKS = [
    network(UNetConfig((4,), (1,))),
    network(UNetConfig((4, 4), (1, 2, 1))),
    network(UNetConfig((4, 4, 4), (1, 1, 3, 1, 1))),
    network(AutoencoderConfig(4, "text")),
    network(AutoencoderConfig(4, "weights")),
]
sides = st.integers(1, 33) | st.integers(1, 170)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(NETWORKS), sides, sides, st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_any_window_gives_what_the_whole_mirrored_image_gives(net, height, width, window):
    given_image = image(height, width)

    result = denoise_image(net, given_image, window=window)

    assert result.shape == given_image.shape
    torch.testing.assert_close(result, whole(net, given_image), rtol=0, atol=1e-5)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sampled_from(NETWORKS), sides, sides, st.integers(0, 4 * 2**20))
def test_any_budget_gives_what_the_whole_mirrored_image_gives(net, height, width, budget):
    given_image = image(height, width)

    result = denoise_image(net, given_image, memory_budget=budget)

    torch.testing.assert_close(result, whole(net, given_image), rtol=0, atol=1e-5)


def test_windows_meet_without_a_seam_on_a_plain_image():
    # Away from the border a plain image stays plain: a seam would show.
    net = NETWORKS[1]
    result = denoise_image(net, torch.full((224, 224, 3), 0.5), window=(1, 1))

    inner = result[halo(net) : -halo(net), halo(net) : -halo(net)]
    period = inner.unfold(0, net.stride, net.stride).unfold(1, net.stride, net.stride)
    assert (period - period[:1, :1]).abs().max() < 1e-5


def test_an_image_that_is_no_contiguous_block_is_taken():
    given_image = image(40, 70)
    turned = given_image.transpose(0, 1)

    result = denoise_image(NETWORKS[0], turned, window=(1, 1))

    torch.testing.assert_close(result, denoise_image(NETWORKS[0], turned.contiguous()), rtol=0, atol=1e-5)


def test_the_result_is_not_clipped_and_the_image_is_left_alone():
    given_image = image(40, 40)
    before = given_image.clone()

    result = denoise_image(NETWORKS[0], given_image)

    assert result.min() < 0
    assert result.max() > 1
    assert torch.equal(given_image, before)


def test_one_network_serves_many_threads_at_once():
    net = NETWORKS[1]
    images = [image(50 + 7 * n, 90 - 5 * n, seed=n) for n in range(8)]
    alone = [denoise_image(net, each, window=(1, 2)) for each in images]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda each: denoise_image(net, each, window=(1, 2)), images * 3))

    assert all(map(torch.equal, together, alone * 3))


# In the depth of a file


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
def test_a_file_s_image_gets_what_the_float_one_gets_clipped_and_rounded(net, noisy, window):
    before = noisy.samples.clone()
    colour = denoise_image(net, noisy.pixels, window=window)
    colour = colour.mean(2, keepdim=True) if noisy.grey else colour
    expected = (colour.clamp(0, 1) * torch.iinfo(noisy.samples.dtype).max).round().to(noisy.samples.dtype)

    clean = denoise(net, noisy, window=window)

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
    """Of noise; floats reach beyond [0, 1]."""
    rng = torch.Generator().manual_seed(height)
    if dtype == torch.float32:
        samples = torch.rand(height, width, channels, generator=rng) * 3 - 1
    else:
        samples = torch.randint(torch.iinfo(dtype).max + 1, (height, width, channels), generator=rng).to(dtype)
    return Image(samples, alpha if alpha is None else alpha.to(dtype))


def test_floats_are_neither_clipped_nor_rounded():
    noisy = any_image(50, 40, torch.float32, 3)

    clean = denoise(NETWORKS[0], noisy, window=(1, 1))

    torch.testing.assert_close(clean.samples, denoise_image(NETWORKS[0], noisy.samples), rtol=0, atol=1e-5)
    assert clean.samples.min() < 0
    assert clean.samples.max() > 1


@pytest.mark.parametrize(("dtype", "channels"), KINDS)
def test_at_no_strength_every_sample_comes_back_as_it_came(dtype, channels):
    hole = torch.ones(37, 45)
    hole[3:20, 8:30] = 0
    noisy = any_image(37, 45, dtype, channels, hole)

    for finish in (Finish(strength=0), Finish(luma=0, chroma=0)):
        assert torch.equal(denoise(NETWORKS[0], noisy, finish=finish).samples, noisy.samples)


def test_strength_takes_that_part_of_the_change():
    noisy = any_image(40, 50, torch.float32, 3)
    change = denoise(NETWORKS[0], noisy).samples - noisy.samples

    half = denoise(NETWORKS[0], noisy, finish=Finish(strength=0.5)).samples

    torch.testing.assert_close(half, noisy.samples + change / 2)


def test_brightness_and_colour_are_cleaned_apart():
    noisy, brightness = any_image(40, 50, torch.float32, 3), torch.tensor([0.299, 0.587, 0.114])
    change = denoise(NETWORKS[0], noisy).samples - noisy.samples

    luma = denoise(NETWORKS[0], noisy, finish=Finish(chroma=0)).samples - noisy.samples
    chroma = denoise(NETWORKS[0], noisy, finish=Finish(strength=0.5, luma=0)).samples - noisy.samples

    torch.testing.assert_close(luma, (change @ brightness)[..., None].expand_as(change), atol=1e-5, rtol=0)
    torch.testing.assert_close(chroma @ brightness, torch.zeros(40, 50), atol=1e-5, rtol=0)
    torch.testing.assert_close(luma + 2 * chroma, change, atol=1e-5, rtol=0)


def test_of_a_grey_image_only_brightness_can_be_cleaned():
    noisy = any_image(40, 50, torch.uint8, 1)

    assert torch.equal(
        denoise(NETWORKS[0], noisy, finish=Finish(chroma=0)).samples, denoise(NETWORKS[0], noisy).samples
    )


@pytest.mark.parametrize(("dtype", "channels"), KINDS)
def test_the_residual_is_what_was_removed_on_mid_grey(dtype, channels):
    noisy = any_image(40, 300, dtype, channels)
    white = 1 if dtype == torch.float32 else torch.iinfo(dtype).max
    removed = noisy.samples.double() - denoise(NETWORKS[0], noisy).samples.double()
    expected = removed / white + 0.5

    residual = denoise(NETWORKS[0], noisy, finish=Finish(output="residual")).samples

    expected = expected if dtype == torch.float32 else expected.clamp(0, 1)
    torch.testing.assert_close(
        residual.double() / white, expected, atol=0.51 / white if white > 1 else 1e-6, rtol=0
    )


@pytest.mark.parametrize(("dtype", "channels"), KINDS)
def test_to_compare_the_image_as_it_came_stands_left_of_the_clean_one(dtype, channels):
    noisy = any_image(40, 30, dtype, channels, torch.ones(40, 30))
    clean = denoise(NETWORKS[0], noisy)

    both = denoise(NETWORKS[0], noisy, finish=Finish(output="compare"))

    assert torch.equal(both.samples[:, :30], noisy.samples)
    assert torch.equal(both.samples[:, 30:], clean.samples)
    assert both.alpha.shape == (40, 60)


@pytest.mark.parametrize(("dtype", "channels"), KINDS)
def test_what_is_fully_transparent_stays_and_does_not_bleed(dtype, channels):
    seen = torch.ones(300, 70)
    seen[20:280, 30:50] = 0
    seen[:5] = 0
    noisy = any_image(300, 70, dtype, channels, seen)
    other = torch.where(seen.bool().unsqueeze(2), noisy.samples, noisy.samples.flip(0))

    clean = denoise(NETWORKS[1], noisy, window=(2, 1))
    otherwise = denoise(NETWORKS[1], Image(other, noisy.alpha), window=(2, 1))

    assert torch.equal(clean.samples[seen == 0], noisy.samples[seen == 0])
    assert torch.equal(clean.samples[seen == 1], otherwise.samples[seen == 1])
    assert torch.equal(clean.alpha, noisy.alpha)


def test_of_a_plain_image_the_hidden_part_does_not_change_the_visible_one():
    seen = torch.ones(64, 64)
    seen[10:40, 20:64] = 0
    seen[60:] = 0
    whole_one = torch.full((64, 64, 3), 90, dtype=torch.uint8)
    cut = whole_one.clone()
    cut[seen == 0] = 0

    clean = denoise(NETWORKS[0], Image(cut, seen.to(torch.uint8)))

    assert torch.equal(clean.samples[seen == 1], denoise(NETWORKS[0], Image(whole_one)).samples[seen == 1])


def test_an_image_of_which_nothing_is_visible_comes_back_as_it_came():
    noisy = any_image(20, 30, torch.uint8, 3, torch.zeros(20, 30))

    assert torch.equal(denoise(NETWORKS[0], noisy).samples, noisy.samples)


def test_windows_can_be_run_by_others_in_any_order_and_beside_other_images():
    noisy, other = (Image(torch.randint(256, (40, side, 3)).to(torch.uint8)) for side in (70, 66))
    here, there = (Denoising(NETWORKS[1], each, window=(1, 1)) for each in (noisy, other))
    equal = defaultdict(list)
    for piece in (*here.pieces, *there.pieces):
        equal[piece.shape].append(piece)

    with ThreadPoolExecutor(1) as thread:
        for pieces in equal.values():
            thread.submit(run, pieces[::-1]).result()

    for denoising, each in ((here, noisy), (there, other)):
        expected = denoise(NETWORKS[1], each, window=(1, 1)).samples.int()
        assert (denoising.result().samples.int() - expected).abs().max() <= 1


def test_an_image_that_is_done_is_let_go_of_at_once_and_not_when_garbage_is_looked_for():
    denoising = Denoising(NETWORKS[0], Image(image(40, 50)))
    for piece in denoising.pieces:
        run([piece])
    kept = [weakref.ref(each) for each in (denoising.noisy.samples, denoising.clean)]
    gc.disable()
    del denoising, piece
    still = [each() is not None for each in kept]
    gc.enable()

    assert still == [False, False]


def test_a_window_says_what_it_gives_and_how_many_of_it_fit_the_budget():
    net, noisy = NETWORKS[1], Image(torch.zeros(40, 70, 3, dtype=torch.uint8))
    budget = 64 * 64 * bytes_per_pixel(net)

    whole_one = Denoising(net, noisy, budget * 3).pieces
    cut = Denoising(net, noisy, budget, window=(1, 1)).pieces

    assert [(piece.shape, piece.pixels, piece.fits) for piece in whole_one] == [((64, 96), 40 * 70, 2)]
    assert [piece.pixels for piece in cut] == [32 * 32, 32 * 32, 32 * 6, 8 * 32, 8 * 32, 8 * 6]
    assert {piece.fits for piece in cut} == {1}


# Mirrors, spans, plans


@pytest.mark.parametrize(
    ("side", "seen"), [(1, [0] * 9), (2, [0, 1] * 4 + [0]), (4, [0, 1, 2, 3, 2, 1, 0, 1, 2])]
)
def test_a_mirror_turns_at_the_last_pixels_again_and_again(side, seen):
    assert mirror(torch.arange(9), side).tolist() == seen


def test_spans_share_a_side_and_their_halos_end_at_the_border():
    assert list(spans(100, 2, 16)) == [(0, 0, 64, 80), (48, 64, 128, 128)]
    assert list(spans(1, 1, 16)) == [(0, 0, 32, 32)]


def largest_and_cost(size, window, margin):
    """Pixels of the largest window and of all windows, by counting."""
    rows, cols = (
        [s.last - s.first for s in spans(side, n, margin)] for side, n in zip(size, window, strict=True)
    )
    return max(rows) * max(cols), sum(rows) * sum(cols)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
    st.sampled_from([0, 8, 32, 88]),
    st.integers(0, 300_000),
)
def test_a_plan_is_the_cheapest_that_fits(size, margin, most):
    chosen = plan(size, margin, most)

    every = [(high, wide) for high in range(1, 14) for wide in range(1, 14)]
    sizes = {window: largest_and_cost(size, window, margin) for window in every}
    fitting = [cost for largest, cost in sizes.values() if largest <= most]
    if fitting:
        assert sizes[chosen][0] <= most
        assert sizes[chosen][1] == min(fitting)
    else:
        assert chosen == (1, 1)


def test_an_image_that_fits_runs_in_one_window():
    assert plan((500, 700), 88, 512 * 704) == (16, 22)


# Memory


def peak(action):
    """Bytes that tensors held at most while the action ran, beyond those they held before."""
    # The profiler does not see an arena's memory.
    by_torch = patch.object(Arena, "take", lambda _, size: torch.empty(size, dtype=torch.uint8))
    with by_torch, profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        action()
    held = np.cumsum(
        [event.nbytes() for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    )
    return int(held.max())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "net",
    [
        build_network(UNetConfig()),
        build_network(UNetConfig(), compute=torch.bfloat16),
        build_network(UNetConfig((48, 96), (1, 2, 1))),
        build_network(AutoencoderConfig(64, "text")),
        build_network(AutoencoderConfig(64, "weights")),
        Sequential(Conv2d(3, 16, 3, padding=1), Conv2d(16, 16, 3, padding=1)),
    ],
)
def test_bytes_per_pixel_is_an_upper_bound_and_no_wild_one(net, path):
    side = 384
    x = image(side, side).unsqueeze(0)
    with path():
        # Weights are packed once, for many images.
        net.forward(x[:, :32, :32].contiguous())

        taken, allowed = peak(lambda: net.forward(x)), bytes_per_pixel(net) * side**2

    assert taken <= 1.02 * allowed
    assert taken > 0.5 * allowed


def test_memory_is_bounded_by_the_budget_whatever_the_size_of_the_image():
    net, budget = network(UNetConfig((16,), (1,))), 6 * 2**20
    # Beside what the network needs there are a window's pixels once more: they are put together before it runs.
    pixels = 12 * (budget // bytes_per_pixel(net))

    for size in ((256, 256), (1024, 512)):
        noisy = image(*size)
        taken = peak(lambda noisy=noisy: denoise_image(net, noisy, memory_budget=budget))
        assert taken - noisy.nbytes < budget + pixels


def test_a_batch_of_as_many_windows_as_fit_is_bounded_by_the_budget():
    net, budget = network(UNetConfig((16,), (1,))), 6 * 2**20
    images = [Image(torch.zeros(64, 64, 3, dtype=torch.uint8)) for _ in range(50)]
    pieces = [Denoising(net, each, budget).pieces[0] for each in images]
    together = pieces[: pieces[0].fits]

    taken = peak(lambda: run(together))

    # Beside what the network needs there are the pixels it is given, twice while they are put together.
    assert taken < budget + 2 * 12 * 64 * 64 * len(together)
    assert 2 < len(together) < len(pieces)


@pytest.mark.parametrize(("dtype", "channels"), [(torch.uint8, 3), (torch.uint16, 1)])
def test_of_a_file_s_image_only_a_window_is_ever_in_float32(dtype, channels):
    net, height, width, window = NETWORKS[0], 1500, 500, (2, 4)
    noisy = Image(torch.zeros(height, width, channels).to(dtype))
    side_pixels = [PATCH * n + 2 * halo(net) for n in window]
    # The window's samples and its floats on the way in and out, and what the network needs for them.
    for_window = math.prod(side_pixels) * (bytes_per_pixel(net) + 40)

    taken = peak(lambda: denoise(net, noisy, window=window))

    assert taken < noisy.samples.nbytes + for_window
    assert for_window < 4 * 3 * height * width, "the test would see the whole image in float32"


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the process's memory")
def test_a_large_image_takes_the_process_little_memory_from_file_to_file():
    """Its float32 pixels alone would be 192 MB, and as many for the result."""
    program = """
import resource, torch
from engine.inference.model_selection import always
from engine.batch.tasks import DenoiseOptions, denoise_bytes
from engine.imageio.image import Image
from engine.imageio.write import encode_png
from engine.models.networks import build_network
from engine.models.unet import UNetConfig
torch.set_num_threads(1)
net = build_network(UNetConfig((2,), (0,)))
small = encode_png(Image(torch.zeros(64, 64, 3, dtype=torch.uint8)))
order = DenoiseOptions(memory_budget=8 * 2**20)
denoise_bytes(always(net), small, order=order)
large = encode_png(Image(torch.zeros(4000, 4000, 3, dtype=torch.uint8)))
# What made the file is not counted: from here on the peak is decoding, denoising and encoding.
open("/proc/self/clear_refs", "w").write("5")
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
denoise_bytes(always(net), large, order=order)
status = open("/proc/self/status").read()
after = int(status.split("VmHWM:")[1].split()[0]) / 1024
print(after - before)
"""
    output = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert not output.stderr
    # 48 MB of samples twice, 64 MB of Pillow's, the file, a window's work.
    assert float(output.stdout) < 260


# What is refused


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
def test_what_is_no_image_is_refused(wrong, got):
    with pytest.raises(ValueError, match=rf"an image is \(H, W, 3\) of floats; {got}"):
        denoise_image(NETWORKS[0], wrong)


def test_a_network_whose_stride_does_not_divide_the_patch_is_refused():
    net = Sequential(Conv2d(3, 3, 3, 3), ReLU(), Upsampling(3, 3, 3, 3))

    with pytest.raises(ValueError, match="a network's stride must divide 32; this one's is 3"):
        denoise_image(net, image(32, 32))
