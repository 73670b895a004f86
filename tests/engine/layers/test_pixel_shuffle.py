import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from engine.layers import DepthToSpace, SpaceToDepth
from engine.layers.pixel_shuffle import depth_to_space, space_to_depth
from tests.bench.plain import plainly
from tests.support.oracle import PATHS, assert_adjoint, assert_passes_agree, channels_first, channels_last, drawn

geometries = st.tuples(*[st.integers(1, 3)] * 5)


def _pixel_unshuffle(x, block):
    """torch's function, with its channels reordered from (C, block²) to ours, (block², C)."""
    n, _, _, channels = x.shape
    y = functional.pixel_unshuffle(channels_first(x), block)
    y = y.view(n, channels, block**2, *y.shape[2:]).transpose(1, 2)
    return channels_last(y.reshape(n, channels * block**2, *y.shape[3:]))


def test_space_to_depth_on_a_case_worked_by_hand():
    x = torch.tensor([[1, 2, 5, 6], [3, 4, 7, 8]]).view(1, 2, 4, 1)

    y = SpaceToDepth(2).forward(x)

    assert y.tolist() == [[[[1, 2, 3, 4], [5, 6, 7, 8]]]]


def test_depth_to_space_on_a_case_worked_by_hand():
    # The two channels of a pixel stay together.
    x = torch.tensor([1, -1, 2, -2, 3, -3, 4, -4]).view(1, 1, 1, 8)

    y = DepthToSpace(2).forward(x)

    assert y.tolist() == [[[[1, -1], [2, -2]], [[3, -3], [4, -4]]]]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(geometries)
def test_both_agree_with_autograd_and_undo_each_other(geometry):
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


types = st.sampled_from([torch.float32, torch.bfloat16])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(geometries, st.sampled_from([1, 3, 40]), types, types)
def test_kernels_and_plain_path_move_and_convert_alike(geometry, rows, from_type, to_type):
    n, height, width, channels, block = geometry
    x = drawn(n, rows * height * block, width * block, channels).to(from_type)

    deep, plain_deep = (run(lambda: space_to_depth(x, block, to_type))() for run in (lambda work: work, plainly))
    wide = depth_to_space(deep, block, from_type)

    assert (deep.dtype, wide.dtype) == (to_type, from_type)
    assert torch.equal(deep, plain_deep)
    assert torch.equal(wide, plainly(lambda: depth_to_space(deep, block, from_type))())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(geometries, types, types)
def test_what_is_added_is_added_in_the_type_of_the_result(geometry, from_type, to_type):
    n, height, width, channels, block = geometry
    x = drawn(n, height, width, channels * block**2).to(from_type)
    add = drawn(n, height * block, width * block, channels, seed=1).to(to_type)
    exact = depth_to_space(x.double(), block).to(to_type).double() + add.double()

    y = depth_to_space(x, block, to_type, add)

    assert y.dtype == to_type
    # Two roundings, of the number and of the sum, of half a unit in the last place each.
    eps = torch.finfo(to_type).eps
    torch.testing.assert_close(y.double(), exact, rtol=eps, atol=4 * eps)


@pytest.mark.parametrize("path", PATHS)
def test_what_is_added_has_the_results_shape_and_type(path):
    x, add = torch.zeros(1, 2, 2, 4), torch.zeros(1, 4, 4, 1)

    for wrong in (add[:, :1], add.bfloat16(), add[0]):
        with path(), pytest.raises(ValueError, match=r"add must be contiguous \(1, 4, 4, 1\) of torch.float32"):
            depth_to_space(x, 2, torch.float32, wrong)


def test_an_image_that_is_not_contiguous_is_rearranged():
    x = drawn(1, 4, 4, 6).float().permute(0, 2, 3, 1)

    assert torch.equal(space_to_depth(x, 2), space_to_depth(x.contiguous(), 2))
    assert torch.equal(depth_to_space(x, 2), depth_to_space(x.contiguous(), 2))


def test_sides_that_are_not_a_multiple_of_the_block_are_refused():
    with pytest.raises(ValueError, match="both sides must be multiples of 2; got 4 x 5 pixels"):
        SpaceToDepth(2).forward(torch.zeros(1, 4, 5, 3))


def test_channels_that_are_not_a_multiple_of_a_block_are_refused():
    with pytest.raises(ValueError, match="channels must be a multiple of 4; got 6"):
        DepthToSpace(2).forward(torch.zeros(1, 4, 4, 6))


@pytest.mark.parametrize("layer_type", [SpaceToDepth, DepthToSpace])
def test_what_is_no_batch_is_refused(layer_type):
    with pytest.raises(ValueError, match=r"a batch must have the shape \(N, H, W, C\); got \(4, 4, 8\)"):
        layer_type(2).forward(torch.zeros(4, 4, 8))
