from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.imageio.image import Image
from engine.inference.denoise import TiledDenoiser, denoise, denoise_image
from engine.inference.tiling import GRID, mirror, plan, run_batch, spans
from engine.layers import Conv2d, ReLU, Sequential, Upsampling
from engine.models.receptive_field import bytes_per_pixel, halo
from engine.models.unet import UNetConfig
from tests.support.memory import peak_bytes
from tests.support.networks import NETWORKS, image, network

sides = st.integers(1, 33) | st.integers(1, 170)


def whole_output(net, given_image):
    """The network's output for the whole image at once, mirrored by numpy."""
    height, width, _ = given_image.shape
    below, right = -height % GRID, -width % GRID
    mirrored = np.pad(given_image.numpy(), ((0, below), (0, right), (0, 0)), mode="reflect")
    return net.forward(torch.from_numpy(mirrored).unsqueeze(0))[0, :height, :width]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(NETWORKS), sides, sides, st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_any_window_size_gives_the_result_of_the_whole_image(net, height, width, window_size):
    given_image = image(height, width)

    result = denoise_image(net, given_image, window_size=window_size)

    assert result.shape == given_image.shape
    torch.testing.assert_close(result, whole_output(net, given_image), rtol=0, atol=1e-5)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sampled_from(NETWORKS), sides, sides, st.integers(0, 4 * 2**20))
def test_any_budget_gives_the_result_of_the_whole_image(net, height, width, budget):
    given_image = image(height, width)

    result = denoise_image(net, given_image, memory_budget=budget)

    torch.testing.assert_close(result, whole_output(net, given_image), rtol=0, atol=1e-5)


def test_windows_leave_no_seam_on_a_plain_image():
    # Away from the border a plain image stays plain, so a seam would show.
    net = NETWORKS[1]
    result = denoise_image(net, torch.full((224, 224, 3), 0.5), window_size=(1, 1))

    inner = result[halo(net) : -halo(net), halo(net) : -halo(net)]
    period = inner.unfold(0, net.stride, net.stride).unfold(1, net.stride, net.stride)
    assert (period - period[:1, :1]).abs().max() < 1e-5


def test_windows_run_in_any_order_and_with_other_images():
    noisy, other = (Image(torch.randint(256, (40, side, 3)).to(torch.uint8)) for side in (70, 66))
    here, there = (TiledDenoiser(NETWORKS[1], each, window_size=(1, 1)) for each in (noisy, other))
    equal = defaultdict(list)
    for window in (*here.windows, *there.windows):
        equal[window.shape].append(window)

    with ThreadPoolExecutor(1) as thread:
        for windows in equal.values():
            thread.submit(run_batch, windows[::-1]).result()

    for denoising, each in ((here, noisy), (there, other)):
        expected = denoise(NETWORKS[1], each, window_size=(1, 1)).samples.int()
        assert (denoising.result().samples.int() - expected).abs().max() <= 1


def test_a_window_knows_its_pixels_and_how_many_fit_the_budget():
    net, noisy = NETWORKS[1], Image(torch.zeros(40, 70, 3, dtype=torch.uint8))
    budget = 64 * 64 * bytes_per_pixel(net)

    one = TiledDenoiser(net, noisy, budget * 3).windows
    several = TiledDenoiser(net, noisy, budget, window_size=(1, 1)).windows

    assert [(window.shape, window.pixels, window.fits) for window in one] == [((64, 96), 40 * 70, 2)]
    assert [window.pixels for window in several] == [32 * 32, 32 * 32, 32 * 6, 8 * 32, 8 * 32, 8 * 6]
    assert {window.fits for window in several} == {1}


def test_a_stride_that_does_not_divide_the_grid_is_refused():
    net = Sequential(Conv2d(3, 3, 3, 3), ReLU(), Upsampling(3, 3, 3, 3))

    with pytest.raises(ValueError, match="a network's stride must divide 32; this network's stride is 3"):
        denoise_image(net, image(32, 32))


# Mirroring and planning


@pytest.mark.parametrize(
    ("side", "seen"), [(1, [0] * 9), (2, [0, 1] * 4 + [0]), (4, [0, 1, 2, 3, 2, 1, 0, 1, 2])]
)
def test_positions_are_mirrored_at_the_last_pixels_repeatedly(side, seen):
    assert mirror(torch.arange(9), side).tolist() == seen


def test_spans_cover_a_side_and_their_halos_end_at_the_border():
    assert list(spans(100, 2, 16)) == [(0, 0, 64, 80), (48, 64, 128, 128)]
    assert list(spans(1, 1, 16)) == [(0, 0, 32, 32)]


def largest_and_cost(size, window, margin):
    """Pixels of the largest window and of all windows, counted."""
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


def test_memory_is_bounded_by_the_budget_for_any_image_size():
    net, budget = network(UNetConfig((16,), (1,))), 6 * 2**20
    # A window's input takes memory besides the network: it is put together before the network runs.
    pixels = 12 * (budget // bytes_per_pixel(net))

    for size in ((256, 256), (1024, 512)):
        noisy = image(*size)
        taken = peak_bytes(lambda noisy=noisy: denoise_image(net, noisy, memory_budget=budget))
        assert taken - noisy.nbytes < budget + pixels


def test_the_memory_of_a_full_batch_is_bounded_by_the_budget():
    net, budget = network(UNetConfig((16,), (1,))), 6 * 2**20
    images = [Image(torch.zeros(64, 64, 3, dtype=torch.uint8)) for _ in range(50)]
    windows = [TiledDenoiser(net, each, budget).windows[0] for each in images]
    batch = windows[: windows[0].fits]

    taken = peak_bytes(lambda: run_batch(batch))

    # The inputs take memory besides the network, twice while they are stacked.
    assert taken < budget + 2 * 12 * 64 * 64 * len(batch)
    assert 2 < len(batch) < len(windows)
