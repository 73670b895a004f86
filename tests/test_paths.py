"""Every fast path against the definition, with tolerances that follow from how many times a number is rounded."""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracle import drawn

from engine import weights
from engine.images import read_rgb
from engine.layers import Conv2d, Window, col2im, conv, im2col, paths, products, strips
from engine.layers.paths import Patches, Phases, Stacked, Tiles, Unfolded, Winograd
from engine.layers.strips import Strip
from engine.layers.window import turned

drawn_often = settings(max_examples=60, deadline=None, derandomize=True)
sides, channels, samples = st.integers(1, 14), st.integers(1, 5), st.integers(1, 3)
types = st.sampled_from([torch.float64, torch.float32, torch.bfloat16])
# From one row a strip to the whole batch in one.
strip_bytes = st.sampled_from([1, 500, 5000, 2**20])

CPU = torch.device("cpu")
SAME, DOWN = Window(3, 1, 1), Window(3, 2, 1)
SHIPPED = Path(__file__).parent.parent / "weights"


class Plain:
    """The definition, in float64."""

    def __init__(self, window):
        self.window = window

    def product(self, x, weight):
        return im2col(x.double(), self.window) @ weight.double()

    def adjoint(self, y, weight, shape):
        return col2im(y.double() @ weight.double().T, shape, self.window)

    def gradient(self, x, y):
        return im2col(x.double(), self.window).flatten(0, 2).T @ y.double().flatten(0, 2)


# The sums before and after Winograd's products, without their signs.
INTO = {
    2: [[1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 0, 1]],
    4: [
        [4, 0, 5, 0, 1, 0],
        [0, 4, 4, 1, 1, 0],
        [0, 4, 4, 1, 1, 0],
        [0, 2, 1, 2, 1, 0],
        [0, 2, 1, 2, 1, 0],
        [0, 4, 0, 5, 0, 1],
    ],
}
OUT = {
    2: [[1, 1, 1, 0], [0, 1, 1, 1]],
    4: [[1, 1, 1, 1, 1, 0], [0, 1, 1, 2, 2, 0], [0, 1, 1, 4, 4, 0], [0, 1, 1, 8, 8, 1]],
}


class Absolute:
    """A form of Winograd on absolute values: what a rounding error can be multiplied by on its way."""

    def __init__(self, form, m):
        self.kernel = torch.tensor(form.kernel, dtype=torch.float64).abs().tolist()
        self.into, self.out = (torch.tensor(rows[m], dtype=torch.float64) for rows in (INTO, OUT))

    def lift(self, above, d, below, v):
        zeros = torch.zeros_like(d[:, :1, 0])
        above = above if above.shape[1] == d.shape[1] else torch.cat((zeros, above), 1)
        below = below if below.shape[1] == d.shape[1] else torch.cat((below, zeros), 1)
        self._apply(self.into, [above, *d.unbind(2), below], v)

    def lower(self, m, y):
        self._apply(self.out, m, y.unbind(2))

    def spread(self, g, u):
        self._apply(self.out.T, g.unbind(2), u)

    @staticmethod
    def _apply(matrix, rows, out):
        for made, result in zip(torch.einsum("ab,b...->a...", matrix, torch.stack(list(rows))), out, strict=True):
            result.copy_(made)


def absolute(m):
    path = Winograd(m)
    path.form = Absolute(path.form, m)
    return path


def assert_within(result, wanted, magnitude, dtype, depth, roundings):
    """Errors at most those of `depth` sums in float32 (or better) and of so many roundings to the type."""
    assert result.shape == wanted.shape
    exact = max(torch.finfo(torch.float32).eps, 0) if dtype != torch.float64 else torch.finfo(dtype).eps
    allowed = magnitude * (depth * exact + roundings * torch.finfo(dtype).eps) + 1e-30
    assert ((result.double() - wanted) / allowed).abs().max() <= 1


def assert_products_agree(path, window, x, weight, dtype, magnitude, depth, roundings):
    """The three products of a path against the definition; magnitude: a path of absolute values."""
    plain = Plain(window)
    x, weight = x.to(dtype), weight.to(dtype)
    y = drawn(*plain.product(x, weight).shape, seed=2).to(dtype)
    bound = {
        "product": magnitude.product(
            x.double().abs(), magnitude.prepare(weight.double().abs(), torch.float64), None
        ),
        "adjoint": magnitude.adjoint(
            y.double().abs(), magnitude.prepare_adjoint(weight.double().abs(), torch.float64), x.shape, None
        ),
        "gradient": magnitude.gradient(x.double().abs(), y.double().abs()),
    }

    product = path.product(x, path.prepare(weight, dtype), None)
    adjoint = path.adjoint(y, path.prepare_adjoint(weight, dtype), x.shape, None)
    gradient = path.gradient(x, y)

    assert product.dtype == adjoint.dtype == dtype
    assert gradient.dtype == torch.promote_types(dtype, torch.float32)
    assert_within(product, plain.product(x, weight), bound["product"], dtype, depth, roundings)
    assert_within(adjoint, plain.adjoint(y, weight, x.shape), bound["adjoint"], dtype, depth, roundings)
    assert_within(gradient, plain.gradient(x, y), bound["gradient"], dtype, depth + y[..., 0].numel(), roundings)


def by(onednn):
    """With every product in float32 made by oneDNN, or none."""
    return patch.multiple(products, FEWEST=0, onednn_is_faster=lambda: onednn)


@drawn_often
@given(sides, sides, samples, channels, channels, types, strip_bytes, st.sampled_from([2, 4]), st.booleans())
def test_winograds_form_is_the_convolution(height, width, n, c_in, c_out, dtype, most, m, onednn):
    x, weight = drawn(n, height, width, c_in), drawn(9 * c_in, c_out, seed=1)

    with patch.object(strips, "STRIP_BYTES", most), by(onednn):
        # Rounded: the weight, what is lifted, the products of three places, and each sum after them.
        assert_products_agree(Winograd(m), SAME, x, weight, dtype, absolute(m), 3 * c_in + 3 * c_out + 12, 10)


def absolute_tiles():
    path = Tiles()
    path.into, path.out, path.kernel = (part.abs() for part in (path.into, path.out, path.kernel))
    return path


@drawn_often
@given(sides, sides, samples, channels, channels, types, strip_bytes, st.booleans())
def test_winograds_tiles_are_the_convolution(height, width, n, c_in, c_out, dtype, most, onednn):
    x, weight = drawn(n, height, width, c_in), drawn(9 * c_in, c_out, seed=1)

    with patch.object(strips, "STRIP_BYTES", most), by(onednn):
        # Rounded: the weight, what is lifted, the products, and the sum after them.
        assert_products_agree(Tiles(), SAME, x, weight, dtype, absolute_tiles(), c_in + c_out + 72, 5)


@drawn_often
@given(sides, sides, samples, channels, channels, types, strip_bytes)
def test_rows_of_three_taps_are_the_convolution(height, width, n, c_in, c_out, dtype, most):
    x, weight = drawn(n, height, width, c_in), drawn(9 * c_in, c_out, seed=1)

    with patch.object(strips, "STRIP_BYTES", most):
        # Three products, each rounded as it is added.
        assert_products_agree(Stacked(), SAME, x, weight, dtype, Unfolded(SAME), 9 * (c_in + c_out), 1)


@drawn_often
@given(sides, sides, samples, channels, channels, types, strip_bytes)
def test_four_phases_are_the_adjoint_at_stride_2(height, width, n, c_in, c_out, dtype, most):
    x, weight = drawn(n, height, width, c_in), drawn(9 * c_in, c_out, seed=1)

    with patch.object(strips, "STRIP_BYTES", most):
        assert_products_agree(Phases(DOWN), DOWN, x, weight, dtype, Unfolded(DOWN), 9 * (c_in + c_out), 8)


@drawn_often
@given(sides, sides, samples, channels, channels, types, strip_bytes, st.integers(1, 4))
def test_patches_are_the_convolution_whose_kernel_is_its_stride(height, width, n, c_in, c_out, dtype, most, k):
    assume(min(height, width) >= k)
    window = Window(k, k)
    x, weight = drawn(n, height, width, c_in), drawn(k * k * c_in, c_out, seed=1)

    with patch.object(strips, "STRIP_BYTES", most):
        assert_products_agree(Patches(window), window, x, weight, dtype, Unfolded(window), 16 * (c_in + c_out), 2)


@pytest.mark.parametrize("path", [Winograd(2), Winograd(4), Tiles()])
def test_winograd_on_a_case_worked_by_hand(path):
    x = torch.arange(1.0, 5.0).view(1, 4, 1, 1)
    weight = torch.zeros(9, 1)
    weight[1::3, 0] = torch.tensor([1.0, 10.0, 100.0])

    y = path.product(x, path.prepare(weight, torch.float32), None)

    # The middle column of the kernel meets 0 1 2 3 4 0.
    torch.testing.assert_close(y.flatten(), torch.tensor([210.0, 321.0, 432.0, 43.0]), rtol=1e-5, atol=0)


def test_winograds_error_grows_with_its_tile_as_its_matrices_say():
    x, weight = drawn(1, 64, 64, 32), drawn(288, 32, seed=1)
    wanted = Plain(SAME).product(x, weight)

    def error(path):
        y = path.product(x.float(), path.prepare(weight.float(), torch.float32), None)
        return (y - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()

    assert error(Winograd(2)) < error(Winograd(4)) < 1e-6
    assert error(Winograd(4)) < error(Tiles()) < 4e-6


def test_a_denoised_picture_moves_by_less_than_a_tenth_of_an_8_bit_step():
    net = weights.load(SHIPPED / "photo.safetensors").net
    noisy = read_rgb(SHIPPED / "examples" / "noisy.png")[:128, :160].float().unsqueeze(0) / 255

    fast = net.forward(noisy)
    with patch.object(conv, "choose", lambda window, *_: Unfolded(window)):
        plain = net.forward(noisy)

    assert 0 < (fast - plain).abs().max() * 255 < 0.1


@pytest.mark.parametrize(
    ("window", "c_in", "c_out", "dtype", "path"),
    [
        (SAME, 64, 64, torch.float32, Winograd),
        (SAME, 192, 192, torch.float32, Tiles),
        (SAME, 192, 12, torch.float32, Stacked),
        (SAME, 48, 48, torch.float64, Winograd),
        (SAME, 32, 64, torch.bfloat16, Stacked),
        (Window(2, 2), 64, 64, torch.float32, Patches),
        (DOWN, 64, 64, torch.bfloat16, Phases),
        (Window(3, 1, 1, 2), 64, 64, torch.float32, Unfolded),
    ],
)
def test_a_path_is_chosen_for_each_geometry(window, c_in, c_out, dtype, path):
    assert type(paths.choose(window, c_in, c_out, dtype, CPU)) is path


@pytest.mark.parametrize(("unit", "path"), [(True, Stacked), (False, Winograd)])
def test_a_unit_for_matrices_wants_no_detours(unit, path):
    paths.choose.cache_clear()
    with patch.object(paths, "has_matrix_unit", lambda: unit):
        assert type(paths.choose(SAME, 64, 64, torch.bfloat16, CPU)) is path
    paths.choose.cache_clear()


def test_a_gpu_gets_the_fewest_products():
    assert type(paths.choose(SAME, 64, 64, torch.bfloat16, torch.device("cuda"))) is Unfolded


def assert_finished_once(shape, make):
    """make(finish) -> a result of a shape: each of its parts is given to `finish` once, in its place."""
    finished = torch.zeros(shape[:2])

    def finish(part, strip):
        part.neg_()
        finished[strip] += 1

    with patch.object(strips, "STRIP_BYTES", 2000):
        result = make(finish)

    assert result.shape == shape
    assert (finished == 1).all()
    torch.testing.assert_close(result, -make(None))


@pytest.mark.parametrize("path", [Winograd(2), Winograd(4), Tiles(), Stacked(), Unfolded(SAME)])
def test_every_part_of_a_result_is_finished_once(path):
    x, prepared = drawn(3, 11, 7, 4), path.prepare(drawn(36, 5, seed=1), torch.float64)

    assert_finished_once((3, 11, 7, 5), lambda finish: path.product(x, prepared, finish))


@pytest.mark.parametrize("path", [Phases(DOWN), Patches(Window(2, 2))])
def test_every_part_of_an_adjoint_is_finished_once(path):
    y, shape = drawn(3, 6, 4, 5), (3, 12, 8, 4)
    prepared = path.prepare_adjoint(drawn(path.window.kernel_size**2 * 4, 5, seed=1), torch.float64)

    assert_finished_once(shape, lambda finish: path.adjoint(y, prepared, shape, finish))


def test_a_changed_weight_is_prepared_anew_and_an_unchanged_one_is_not():
    layer, x = Conv2d(4, 4, 3, padding=1, bias=False), drawn(1, 8, 8, 4).float()
    before = layer.forward(x)
    held = layer.prepared.held
    layer.forward(x)

    assert layer.prepared.held is held

    layer.params["weight"].mul_(2)
    torch.testing.assert_close(layer.forward(x), 2 * before)
    layer.params["weight"] = layer.params["weight"] * 2
    torch.testing.assert_close(layer.forward(x), 4 * before)


def test_the_kernel_turned_twice_is_the_kernel():
    weight = drawn(9 * 3, 5)

    assert torch.equal(turned(turned(weight, 3), 5), weight)


def test_a_strip_knows_its_place():
    seen = []
    with patch.object(strips, "STRIP_BYTES", 64):
        strips.each_strip(torch.zeros(2, 5, 4, 1), seen.append)

    assert seen == [Strip(slice(s, s + 1), slice(r, min(r + 2, 5))) for s in range(2) for r in range(0, 5, 2)]
