import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_adjoint, assert_passes_agree, channels_first, channels_last, drawn
from torch.nn import functional

from engine.layers import DepthToSpace, SpaceToDepth

geometries = st.tuples(*[st.integers(1, 3)] * 5)


def _pixel_unshuffle(x, block):
    """torch's, whose channels lie (C, block²), in our order: (block², C)."""
    n, _, _, channels = x.shape
    y = functional.pixel_unshuffle(channels_first(x), block)
    y = y.view(n, channels, block**2, *y.shape[2:]).transpose(1, 2)
    return channels_last(y.reshape(n, channels * block**2, *y.shape[3:]))


def test_space_to_depth_on_a_case_worked_by_hand():
    x = torch.tensor([[1, 2, 5, 6], [3, 4, 7, 8]]).view(1, 2, 4, 1)

    y = SpaceToDepth(2).forward(x)

    assert y.tolist() == [[[[1, 2, 3, 4], [5, 6, 7, 8]]]]


def test_depth_to_space_on_a_case_worked_by_hand():
    # Two channels: each pixel's stay together.
    x = torch.tensor([1, -1, 2, -2, 3, -3, 4, -4]).view(1, 1, 1, 8)

    y = DepthToSpace(2).forward(x)

    assert y.tolist() == [[[[1, -1], [2, -2]], [[3, -3], [4, -4]]]]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(geometries)
def test_both_agree_with_autograd_and_undo_each_other_for_any_geometry(geometry):
    n, height, width, channels, block = geometry
    x = drawn(n, height * block, width * block, channels)
    y = drawn(n, height, width, channels * block**2)

    assert_passes_agree(SpaceToDepth(block), lambda x, _: _pixel_unshuffle(x, block), x)
    assert torch.equal(DepthToSpace(block).forward(SpaceToDepth(block).forward(x)), x)
    assert torch.equal(SpaceToDepth(block).forward(DepthToSpace(block).forward(y)), y)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(geometries)
def test_each_is_the_adjoint_of_the_other(geometry):
    n, height, width, channels, block = geometry

    assert_adjoint(SpaceToDepth(block), drawn(n, height * block, width * block, channels))
    assert_adjoint(DepthToSpace(block), drawn(n, height, width, channels * block**2))


def test_sides_that_are_no_multiple_of_the_block_are_refused():
    with pytest.raises(ValueError, match="both sides must be multiples of 2; got 4 x 5 pixels"):
        SpaceToDepth(2).forward(torch.zeros(1, 4, 5, 3))


def test_channels_that_are_no_multiple_of_the_blocks_pixels_are_refused():
    with pytest.raises(ValueError, match="channels must be a multiple of 4; got 6"):
        DepthToSpace(2).forward(torch.zeros(1, 4, 4, 6))


@pytest.mark.parametrize("layer_type", [SpaceToDepth, DepthToSpace])
def test_what_is_no_batch_is_refused(layer_type):
    with pytest.raises(ValueError, match=r"a batch is \(N, H, W, C\); got \(4, 4, 8\)"):
        layer_type(2).forward(torch.zeros(4, 4, 8))
