from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import randomised
from torch.profiler import ProfilerActivity, profile

from engine.layers import Conv2d, ReLU, Sequential, Upsampling, slots
from engine.layers.conv import BLOCK_BYTES
from engine.networks import PaperSpec, PhotoSpec, build_network, bytes_per_pixel, halo
from engine.picture import PATCH, Cancelled, denoise_picture, mirror, plan, spans


def network(spec):
    net = randomised(build_network(spec))
    for slot in slots(net):
        slot.layer.params[slot.key] = slot.value.float()
    return net


def picture(height, width, seed=0):
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


def whole(net, given_picture):
    """The network run once on all of the mirrored picture, which numpy mirrors."""
    height, width, _ = given_picture.shape
    below, right = -height % PATCH, -width % PATCH
    mirrored = np.pad(given_picture.numpy(), ((0, below), (0, right), (0, 0)), mode="reflect")
    return net.forward(torch.from_numpy(mirrored).unsqueeze(0))[0, :height, :width]


# Halos of 10, 32 and 88 and, in the two readings of the report, 4: within a patch, a patch, beyond the next.
NETWORKS = [
    network(PhotoSpec((4,), (1,))),
    network(PhotoSpec((4, 4), (1, 2, 1))),
    network(PhotoSpec((4, 4, 4), (1, 1, 3, 1, 1))),
    network(PaperSpec(4, "text")),
    network(PaperSpec(4, "weights")),
]
sides = st.integers(1, 33) | st.integers(1, 170)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(NETWORKS), sides, sides, st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_any_window_gives_what_the_whole_mirrored_picture_gives(net, height, width, window):
    given_picture = picture(height, width)

    result = denoise_picture(net, given_picture, window=window)

    assert result.shape == given_picture.shape
    torch.testing.assert_close(result, whole(net, given_picture), rtol=0, atol=1e-5)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sampled_from(NETWORKS), sides, sides, st.integers(0, 4 * 2**20))
def test_any_budget_gives_what_the_whole_mirrored_picture_gives(net, height, width, budget):
    given_picture = picture(height, width)

    result = denoise_picture(net, given_picture, memory_budget=budget)

    torch.testing.assert_close(result, whole(net, given_picture), rtol=0, atol=1e-5)


def test_windows_meet_without_a_seam_on_a_plain_picture():
    # Away from the border a plain picture stays plain: a seam would show.
    net = NETWORKS[1]
    result = denoise_picture(net, torch.full((224, 224, 3), 0.5), window=(1, 1))

    inner = result[halo(net) : -halo(net), halo(net) : -halo(net)]
    period = inner.unfold(0, net.stride, net.stride).unfold(1, net.stride, net.stride)
    assert (period - period[:1, :1]).abs().max() < 1e-5


def test_a_picture_that_is_no_contiguous_block_is_taken():
    given_picture = picture(40, 70)
    turned = given_picture.transpose(0, 1)

    result = denoise_picture(NETWORKS[0], turned, window=(1, 1))

    torch.testing.assert_close(result, denoise_picture(NETWORKS[0], turned.contiguous()), rtol=0, atol=1e-5)


def test_the_result_is_not_clipped_and_the_picture_is_left_alone():
    given_picture = picture(40, 40)
    before = given_picture.clone()

    result = denoise_picture(NETWORKS[0], given_picture)

    assert result.min() < 0
    assert result.max() > 1
    assert torch.equal(given_picture, before)


def test_one_network_serves_many_threads_at_once():
    net = NETWORKS[1]
    pictures = [picture(50 + 7 * n, 90 - 5 * n, seed=n) for n in range(8)]
    alone = [denoise_picture(net, each, window=(1, 2)) for each in pictures]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda each: denoise_picture(net, each, window=(1, 2)), pictures * 3))

    assert all(map(torch.equal, together, alone * 3))


# Stopping


def test_a_picture_no_longer_wanted_is_given_up_before_the_next_window():
    answers = iter([True, True, False])

    with pytest.raises(Cancelled):
        denoise_picture(NETWORKS[0], picture(32, 128), window=(1, 1), wanted=lambda: next(answers))

    assert not list(answers)


def test_it_is_asked_once_for_each_window_whether_the_picture_is_wanted():
    asked = []

    denoise_picture(NETWORKS[0], picture(64, 96), window=(1, 1), wanted=lambda: asked.append(1) or True)

    assert len(asked) == 6


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
    st.tuples(st.integers(1, 400), st.integers(1, 400)), st.sampled_from([0, 8, 32, 88]), st.integers(0, 300_000)
)
def test_a_plan_is_the_cheapest_that_fits(size, margin, most):
    chosen = plan(size, margin, most)

    every = [(high, wide) for high in range(1, 14) for wide in range(1, 14)]
    costs = {window: largest_and_cost(size, window, margin) for window in every}
    fitting = [cost for largest, cost in costs.values() if largest <= most]
    if fitting:
        assert costs[chosen][0] <= most
        assert costs[chosen][1] == min(fitting)
    else:
        assert chosen == (1, 1)


def test_a_picture_that_fits_runs_in_one_window():
    assert plan((500, 700), 88, 512 * 704) == (16, 22)


# Memory


def peak(action):
    """Bytes that tensors held at most while the action ran, beyond those they held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        action()
    held = np.cumsum(
        [event.nbytes() for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    )
    return int(held.max())


@pytest.mark.parametrize(
    "net",
    [
        build_network(PhotoSpec()),
        build_network(PhotoSpec((48, 96), (1, 2, 1))),
        build_network(PaperSpec(64, "text")),
        build_network(PaperSpec(64, "weights")),
        Sequential(Conv2d(3, 16, 3, padding=1), Conv2d(16, 16, 3, padding=1)),
    ],
)
def test_bytes_per_pixel_is_an_upper_bound_and_no_wild_one(net):
    side = 384
    x = picture(side, side).unsqueeze(0)

    taken = peak(lambda: net.forward(x)) - BLOCK_BYTES

    assert taken <= 1.02 * bytes_per_pixel(net) * side**2
    assert taken > 0.5 * bytes_per_pixel(net) * side**2


def test_memory_is_bounded_by_the_budget_whatever_the_size_of_the_picture():
    net, budget = network(PhotoSpec((16,), (1,))), 6 * 2**20

    for size in ((256, 256), (1024, 512)):
        noisy = picture(*size)
        taken = peak(lambda noisy=noisy: denoise_picture(net, noisy, memory_budget=budget))
        assert taken - noisy.nbytes < budget + BLOCK_BYTES


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
def test_what_is_no_picture_is_refused(wrong, got):
    with pytest.raises(ValueError, match=rf"a picture is \(H, W, 3\) of floats; {got}"):
        denoise_picture(NETWORKS[0], wrong)


def test_a_network_whose_stride_does_not_divide_the_patch_is_refused():
    net = Sequential(Conv2d(3, 3, 3, 3), ReLU(), Upsampling(3, 3, 3, 3))

    with pytest.raises(ValueError, match="a network's stride must divide 32; this one's is 3"):
        denoise_picture(net, picture(32, 32))
