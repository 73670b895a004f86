import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.layers import (
    Conv2d,
    ConvGeometry,
    ConvTranspose2d,
    Sequential,
    Upsampling,
    col2im,
    drop_packed_weights,
    im2col,
    kernels,
)
from tests.support import oracle
from tests.support.oracle import PATHS, assert_adjoint, assert_passes_agree, drawn, randomised

drawn_often = settings(max_examples=60, deadline=None, derandomize=True)
sides, channels, few = st.integers(1, 9), st.integers(1, 3), st.integers(1, 3)
windows = st.builds(ConvGeometry, st.integers(1, 4), few, st.integers(0, 3), few)


def _convolution(layer):
    geometry = layer.geometry
    return lambda x, parameters: oracle.conv2d(
        x, **parameters, stride=geometry.stride, padding=geometry.padding, dilation=geometry.dilation
    )


def _transposed_convolution(layer):
    geometry = layer.geometry
    return lambda x, parameters: oracle.conv_transpose2d(
        x,
        **parameters,
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=geometry.dilation,
        output_padding=layer.output_padding,
        out_channels=layer.out_channels,
    )


def _geometry(geometry):
    return geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation


# Conv2d


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "dilation"),
    [(1, 1, 0, 1), (2, 2, 0, 1), (3, 1, 1, 1), (3, 2, 1, 1), (3, 1, 3, 2), (3, 3, 2, 2), (4, 3, 5, 1)],
)
def test_conv2d_agrees_with_autograd(kernel_size, stride, padding, dilation, bias):
    layer = randomised(Conv2d(3, 5, kernel_size, stride, padding, dilation, bias))

    assert_passes_agree(layer, _convolution(layer), drawn(2, 11, 8, 3))


@drawn_often
@given(windows, sides, sides, channels, channels, st.integers(1, 3))
def test_conv2d_agrees_with_autograd_for_any_geometry(geometry, height, width, c_in, c_out, batch):
    assume(min(height, width) + 2 * geometry.padding >= geometry.span)
    layer = randomised(Conv2d(c_in, c_out, *_geometry(geometry)))

    assert_passes_agree(layer, _convolution(layer), drawn(batch, height, width, c_in))


@drawn_often
@given(windows, sides, sides, channels, channels)
def test_conv2d_backward_is_the_adjoint_of_forward(geometry, height, width, c_in, c_out):
    assume(min(height, width) + 2 * geometry.padding >= geometry.span)

    assert_adjoint(
        randomised(Conv2d(c_in, c_out, *_geometry(geometry), bias=False)), drawn(2, height, width, c_in)
    )


def test_conv2d_on_a_case_worked_by_hand():
    layer = Conv2d(1, 1, 2)
    layer.params = {"weight": torch.tensor([[1.0], [2.0], [3.0], [4.0]]), "bias": torch.tensor([10.0])}
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).view(1, 2, 3, 1)

    y = layer.forward(x, train=True)
    dx = layer.backward(torch.tensor([1.0, -1.0]).view(1, 1, 2, 1))

    # 1·1 + 2·2 + 4·3 + 5·4 + 10 = 47 and 2·1 + 3·2 + 5·3 + 6·4 + 10 = 57.
    assert y.tolist() == [[[[47.0], [57.0]]]]
    assert dx.flatten().tolist() == [1.0, 1.0, -2.0, 3.0, 1.0, -4.0]
    assert layer.grads["weight"].flatten().tolist() == [-1.0, -1.0, -1.0, -1.0]
    assert layer.grads["bias"].tolist() == [0.0]


def test_conv2d_on_a_strided_and_padded_case_worked_by_hand():
    layer = Conv2d(1, 1, 3, stride=2, padding=1, bias=False)
    layer.params = {"weight": torch.arange(1.0, 10.0).view(9, 1)}
    x = torch.tensor([[1.0, 2.0, 3.0]]).view(1, 1, 3, 1)

    y = layer.forward(x, train=True)
    dx = layer.backward(torch.tensor([1.0, 10.0]).view(1, 1, 2, 1))

    # Only the middle row of the kernel, 4 5 6, meets the image: at (0, 1, 2), then at (2, 3, 0).
    assert y.flatten().tolist() == [17.0, 23.0]
    assert dx.flatten().tolist() == [5.0, 46.0, 50.0]
    assert layer.grads["weight"].flatten().tolist() == [0, 0, 0, 20.0, 31.0, 2.0, 0, 0, 0]


def test_conv2d_takes_an_image_that_is_no_contiguous_block():
    layer = randomised(Conv2d(2, 3, 3, padding=1))
    x = drawn(2, 2, 5, 6).permute(0, 2, 3, 1)

    assert_passes_agree(layer, _convolution(layer), x)


# The unfolding


@drawn_often
@given(windows, sides, sides, channels)
def test_col2im_is_the_adjoint_of_im2col(geometry, height, width, c):
    assume(min(height, width) + 2 * geometry.padding >= geometry.span)
    x = drawn(2, height, width, c)
    columns = im2col(x, geometry)
    y = drawn(*columns.shape, seed=1)

    torch.testing.assert_close((columns * y).sum(), (x * col2im(y, x.shape, geometry)).sum())


def test_im2col_lays_each_pixels_taps_in_a_row():
    x = torch.arange(1.0, 7.0).view(1, 2, 3, 1)

    columns = im2col(x, ConvGeometry(2))

    assert columns.tolist() == [[[[1.0, 2.0, 4.0, 5.0], [2.0, 3.0, 5.0, 6.0]]]]


def test_col2im_sums_the_taps_that_share_a_pixel():
    columns = torch.tensor([[1.0, 2.0, 4.0, 5.0], [20.0, 30.0, 50.0, 60.0]]).view(1, 1, 2, 4)

    x = col2im(columns, (1, 2, 3, 1), ConvGeometry(2))

    assert x.flatten().tolist() == [1.0, 22.0, 30.0, 4.0, 55.0, 60.0]


# ConvTranspose2d


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "dilation", "output_padding"),
    [(1, 1, 0, 1, 0), (2, 2, 0, 1, 0), (3, 2, 1, 1, 1), (3, 1, 2, 2, 0), (2, 1, 1, 3, 2), (2, 3, 0, 1, 2)],
)
def test_conv_transpose2d_agrees_with_autograd(kernel_size, stride, padding, dilation, output_padding, bias):
    layer = randomised(ConvTranspose2d(3, 5, kernel_size, stride, padding, dilation, output_padding, bias))

    assert_passes_agree(layer, _transposed_convolution(layer), drawn(2, 6, 4, 3))


@drawn_often
@given(windows, st.integers(0, 2), sides, sides, channels, channels)
def test_conv_transpose2d_agrees_with_autograd_for_any_geometry(geometry, extra, height, width, c_in, c_out):
    assume(extra < max(geometry.stride, geometry.dilation))
    assume((min(height, width) - 1) * geometry.stride + geometry.span + extra > 2 * geometry.padding)
    layer = randomised(ConvTranspose2d(c_in, c_out, *_geometry(geometry), output_padding=extra))

    assert_passes_agree(layer, _transposed_convolution(layer), drawn(2, height, width, c_in))


@drawn_often
@given(windows, sides, sides, channels, channels)
def test_conv_transpose2d_is_the_adjoint_of_conv2d(geometry, height, width, c_in, c_out):
    assume(min(height, width) + 2 * geometry.padding >= geometry.span)
    conv2d = randomised(Conv2d(c_in, c_out, *_geometry(geometry), bias=False))
    x = drawn(2, height, width, c_in)
    ax = conv2d.forward(x)
    y = drawn(*ax.shape, seed=1)
    # Rows that the convolution's stride leaves over are what output padding gives back.
    extra = (height + 2 * geometry.padding - geometry.span) % geometry.stride
    assume((width + 2 * geometry.padding - geometry.span) % geometry.stride == extra)
    transposed = ConvTranspose2d(c_out, c_in, *_geometry(geometry), output_padding=extra, bias=False)
    transposed.params = {"weight": conv2d.params["weight"].T}

    torch.testing.assert_close((ax * y).sum(), (x * transposed.forward(y)).sum())
    assert_adjoint(transposed, y)


def test_conv_transpose2d_on_a_case_worked_by_hand():
    layer = ConvTranspose2d(1, 1, 2)
    layer.params = {"weight": torch.tensor([[1.0, 2.0, 3.0, 4.0]]), "bias": torch.tensor([100.0])}
    x = torch.tensor([1.0, 10.0]).view(1, 1, 2, 1)

    y = layer.forward(x, train=True)
    dx = layer.backward(torch.arange(1.0, 7.0).view(1, 2, 3, 1))

    # 1 lays 1 2 / 3 4 on the left, 10 lays 10 20 / 30 40 on the right, and they share the middle.
    assert y.flatten().tolist() == [101.0, 112.0, 120.0, 103.0, 134.0, 140.0]
    # 1·1 + 2·2 + 4·3 + 5·4 = 37 and 2·1 + 3·2 + 5·3 + 6·4 = 47.
    assert dx.flatten().tolist() == [37.0, 47.0]
    assert layer.grads["weight"].flatten().tolist() == [21.0, 32.0, 54.0, 65.0]
    assert layer.grads["bias"].tolist() == [21.0]


def test_upsampling_is_the_transposed_convolution_and_doubles_the_size_as_the_report_has_it():
    layer = Upsampling(2, 3, 3, stride=2, padding=1, output_padding=1)

    y = layer.forward(torch.randn(1, 4, 5, 2))

    assert Upsampling is ConvTranspose2d
    assert y.shape == (1, 8, 10, 3)


# What both do while they store a result


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("rectifies", [True, False])
@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (Conv2d(3, 5, 3, 2, 1), _convolution),
        (Conv2d(3, 5, 3, 1, 1, bias=False), _convolution),
        (ConvTranspose2d(3, 5, 2, 2), _transposed_convolution),
        (ConvTranspose2d(3, 5, 3, 1, 1, bias=False), _transposed_convolution),
    ],
)
def test_a_sum_and_a_relu_at_the_store_agree_with_torchs(layer, function, adds, rectifies):
    layer, x = randomised(layer), drawn(2, 7, 6, 3)
    y = function(layer)(x, layer.params)
    add = drawn(*y.shape, seed=3)

    stored = layer.forward(x, add=add if adds else None, relu=rectifies)

    wanted = y + add if adds else y
    torch.testing.assert_close(stored, wanted.relu() if rectifies else wanted)


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("layer", [Conv2d(3, 5, 3, 2, 1), ConvTranspose2d(3, 5, 3, 2, 1, output_padding=1)])
def test_a_sum_and_a_mask_on_the_way_back_agree_with_autograd(layer, adds):
    layer = randomised(layer)
    function = (_convolution if isinstance(layer, Conv2d) else _transposed_convolution)(layer)
    before = drawn(2, 7, 6, 3, seed=4).requires_grad_()
    x = before.relu()
    y = function(x, layer.params)
    dy, add = drawn(*y.shape, seed=1), drawn(*x.shape, seed=3)
    # x is used twice: by the layer, and by what dL/dx = add comes from.
    (wanted,) = torch.autograd.grad((y * dy).sum() + adds * (x * add).sum(), before)
    layer.forward(x.detach(), train=True)

    dx = layer.backward(dy, add=add if adds else None, mask=x.detach())

    torch.testing.assert_close(dx, wanted)


def test_the_store_on_a_case_worked_by_hand():
    layer = Conv2d(1, 1, 1)
    layer.params = {"weight": torch.tensor([[2.0]]), "bias": torch.tensor([1.0])}
    row = torch.tensor([-3.0, -1.0, 0.0, 2.0]).view(1, 1, 4, 1)
    add = torch.tensor([9.0, 0.0, -4.0, 1.0]).view(1, 1, 4, 1)

    y = layer.forward(row, train=True, add=add, relu=True)
    dx = layer.backward(row, add=add, mask=add)

    # 2 · (-3) + 1 + 9, then 2 · (-1) + 1, 0 + 1 - 4, 4 + 1 + 1; and back 9 - 6, 0 and 0 by the mask, 1 + 4.
    assert y.flatten().tolist() == [4.0, 0.0, 0.0, 6.0]
    assert dx.flatten().tolist() == [3.0, 0.0, 0.0, 5.0]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("add", [torch.zeros(1, 4, 4, 1), torch.zeros(4), torch.zeros(1, 4, 4, 3).bfloat16()])
def test_what_is_added_has_the_results_shape_and_type(add, path):
    with path(), pytest.raises(ValueError, match=r"add must be contiguous \(1, 4, 4, 3\) of torch.float32"):
        Conv2d(2, 3, 1).forward(torch.zeros(1, 4, 4, 2), add=add)


@pytest.mark.parametrize("path", PATHS)
def test_what_is_no_number_stays_none_and_is_seen_behind_a_relu(path):
    with path():
        y = Conv2d(4, 8, 3, padding=1).forward(torch.full((1, 4, 4, 4), torch.nan), relu=True)

    assert y.isnan().all()


@pytest.mark.parametrize("path", PATHS)
def test_a_masked_gradient_is_zero_even_where_it_was_infinite(path):
    layer, x = Conv2d(1, 1, 1), torch.tensor([1.0, 0.0]).view(1, 1, 2, 1)
    layer.params["weight"].fill_(1.0)
    with path():
        layer.forward(x, train=True)

        dx = layer.backward(torch.full((1, 1, 2, 1), torch.inf), mask=x)

    assert dx.flatten().tolist() == [torch.inf, 0.0]


# What both keep


@pytest.mark.parametrize("layer", [Conv2d(2, 3, 3, padding=1), ConvTranspose2d(2, 3, 2, 2)])
def test_forward_leaves_nothing_behind_unless_training(layer):
    before = set(vars(layer))

    layer.forward(torch.randn(1, 4, 4, 2))

    assert set(vars(layer)) == before


@pytest.mark.skipif(kernels.chosen() is None, reason="only kernels pack a weight")
def test_a_changed_weight_is_packed_anew_and_an_unchanged_one_is_not():
    layer, x = Conv2d(4, 4, 3, padding=1, bias=False), drawn(1, 8, 8, 4).float()
    before = layer.forward(x)
    packed = layer._packed[False, True].value
    layer.forward(x)

    assert layer._packed[False, True].value is packed

    layer.params["weight"].mul_(2)
    torch.testing.assert_close(layer.forward(x), 2 * before)
    layer.params["weight"] = layer.params["weight"] * 2
    torch.testing.assert_close(layer.forward(x), 4 * before)
    torch.testing.assert_close(layer.forward(x.bfloat16()).float(), 4 * before, rtol=0.02, atol=0.2)


@pytest.mark.skipif(kernels.chosen() is None, reason="only kernels pack a weight")
@pytest.mark.parametrize("layer", [Conv2d(4, 4, 3, padding=1), ConvTranspose2d(4, 4, 2, 2)])
def test_training_keeps_no_packed_weight(layer):
    layer.backward(layer.forward(drawn(1, 8, 8, 4).float(), train=True).clone())

    assert not layer._packed


@pytest.mark.parametrize("channels", [5, 16, 32])
@pytest.mark.parametrize(("kernel_size", "side"), [(2, 4), (2, 5), (3, 9), (3, 10), (3, 11)])
def test_windows_side_by_side_with_and_without_a_remainder_agree_with_the_definition(kernel_size, side, channels):
    layer = randomised(Conv2d(channels, 7, kernel_size, kernel_size))
    x, dy = drawn(2, side, side, channels), drawn(2, side // kernel_size, side // kernel_size, 7, seed=1)
    exact, exact_dx = layer.forward(x, train=True), layer.backward(dy)
    up = randomised(ConvTranspose2d(7, channels, kernel_size, kernel_size, output_padding=side % kernel_size))
    exact_up = up.forward(dy)
    for each in (layer, up):
        each.params = {name: value.float() for name, value in each.params.items()}

    torch.testing.assert_close(layer.forward(x.float(), train=True), exact.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.backward(dy.float()), exact_dx.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(up.forward(dy.float()), exact_up.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(kernels.chosen() is None, reason="only kernels pack a weight")
@pytest.mark.parametrize("layer", [Conv2d(4, 4, 3, padding=1), ConvTranspose2d(4, 4, 2, 2)])
def test_packed_weights_can_be_dropped_and_come_back(layer):
    x = drawn(1, 8, 8, 4).float()
    before = layer.forward(x, train=True), layer.backward(layer.forward(x))

    drop_packed_weights(Sequential(layer))

    assert not layer._packed
    assert torch.equal(layer.forward(x), before[0])
    assert layer._packed
    assert torch.equal(layer.backward(before[0]), before[1])


@pytest.mark.parametrize("layer_type", [Conv2d, ConvTranspose2d])
def test_in_bfloat16_the_gradients_keep_the_type_of_the_parameters(layer_type):
    layer = layer_type(4, 4, 3, padding=1, rng=torch.Generator().manual_seed(0))
    x, dy = drawn(1, 8, 8, 4).float(), drawn(1, 8, 8, 4, seed=1).float()
    exact, exact_dx = layer.forward(x, train=True), layer.backward(dy)
    exact_grads = layer.grads

    y, dx = layer.forward(x.bfloat16(), train=True), layer.backward(dy.bfloat16())

    assert y.dtype == dx.dtype == torch.bfloat16
    assert {grad.dtype for grad in layer.grads.values()} == {torch.float32}
    torch.testing.assert_close(y.float(), exact, rtol=0.02, atol=0.05)
    torch.testing.assert_close(dx.float(), exact_dx, rtol=0.02, atol=0.05)
    torch.testing.assert_close(layer.grads["weight"], exact_grads["weight"], rtol=0.02, atol=0.15)
    torch.testing.assert_close(layer.grads["bias"], exact_grads["bias"], rtol=0.02, atol=0.05)


def test_weights_start_with_the_spread_of_he_and_biases_at_zero():
    rng = torch.Generator().manual_seed(0)
    conv2d, transposed = Conv2d(32, 64, 3, rng=rng), ConvTranspose2d(32, 64, 2, 2, rng=rng)

    assert conv2d.params["weight"].std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.03)
    assert transposed.params["weight"].std().item() == pytest.approx((2 / 32) ** 0.5, rel=0.03)
    assert not conv2d.params["bias"].any()
    assert not transposed.params["bias"].any()


def test_the_same_generator_draws_the_same_weights():
    first, second = (Conv2d(3, 4, 3, rng=torch.Generator().manual_seed(5)) for _ in range(2))

    assert torch.equal(first.params["weight"], second.params["weight"])


# What they refuse


@pytest.mark.parametrize(
    ("x", "got"),
    [
        (torch.zeros(1, 8, 8, 4), r"got \(1, 8, 8, 4\) of torch.float32"),
        (torch.zeros(8, 8, 3), r"got \(8, 8, 3\) of torch.float32"),
        (torch.zeros(0, 8, 8, 3), r"got \(0, 8, 8, 3\) of torch.float32"),
        (torch.zeros(1, 8, 8, 3, dtype=torch.float64), r"got \(1, 8, 8, 3\) of torch.float64"),
        (torch.zeros(1, 8, 8, 3, dtype=torch.uint8), r"got \(1, 8, 8, 3\) of torch.uint8"),
    ],
)
@pytest.mark.parametrize("layer_type", [Conv2d, ConvTranspose2d])
def test_another_shape_or_type_is_refused_with_what_fits(layer_type, x, got):
    layer = layer_type(3, 4, 2)

    with pytest.raises(ValueError, match=rf"{layer_type.__name__} takes \(N, H, W, 3\) of torch.float32; {got}"):
        layer.forward(x)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", [(1, 7, 8, 16), (1, 9, 8, 16), (2, 8, 8, 16), (1, 8, 8, 15), (8, 8, 16)])
@pytest.mark.parametrize("layer_type", [Conv2d, ConvTranspose2d])
def test_a_gradient_that_is_not_shaped_like_the_result_is_refused(layer_type, shape, path):
    layer = layer_type(16, 16, 3, padding=1)
    with path():
        layer.forward(torch.zeros(1, 8, 8, 16), train=True)

        with pytest.raises(ValueError, match=r".*"):
            layer.backward(torch.zeros(shape))


def test_a_kernel_larger_than_the_padded_input_is_refused():
    with pytest.raises(ValueError, match="spans 5 pixels does not fit an input of 2 x 9 pixels padded by 1"):
        Conv2d(1, 1, 3, padding=1, dilation=2).forward(torch.zeros(1, 2, 9, 1))


def test_a_padding_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match="an input of 1 x 4 pixels would give an output of -1 x 2"):
        ConvTranspose2d(1, 1, 1, padding=1).forward(torch.zeros(1, 1, 4, 1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kernel_size": 0}, "kernel_size is a whole number of at least 1; got 0"),
        ({"stride": 0}, "stride is a whole number of at least 1; got 0"),
        ({"padding": -1}, "padding is a whole number of at least 0; got -1"),
        ({"dilation": 1.5}, "dilation is a whole number of at least 1; got 1.5"),
        ({"in_channels": 0}, "in_channels is a whole number of at least 1; got 0"),
        ({"out_channels": -3}, "out_channels is a whole number of at least 1; got -3"),
    ],
)
@pytest.mark.parametrize("layer_type", [Conv2d, ConvTranspose2d])
def test_a_value_out_of_range_is_refused_by_name(layer_type, wrong, message):
    with pytest.raises(ValueError, match=message):
        layer_type(**{"in_channels": 1, "out_channels": 1, "kernel_size": 3} | wrong)


@pytest.mark.parametrize("output_padding", [-1, 2])
def test_an_output_padding_out_of_range_is_refused(output_padding):
    with pytest.raises(ValueError, match=f"got {output_padding} with stride 2 and dilation 1"):
        ConvTranspose2d(1, 1, 3, stride=2, output_padding=output_padding)
