"""Convolution and its transpose: two layers, four passes, one adjoint pair of functions (im2col, col2im)."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

# Columns are made in blocks of so many bytes: small enough to be multiplied while still in a core's cache. On
# a GPU the fewer products the better, and the limit is one of memory.
BLOCK_BYTES, DEVICE_BLOCK_BYTES = 4 * 2**20, 2**28


@dataclass(frozen=True)
class Window:
    """Where a kernel looks. Terms of Dumoulin & Visin, "A guide to convolution arithmetic", 2016.

    kernel_size and stride in pixels, dilation 1 is none, padding is of zeros and on all four sides.
    Raises ValueError naming the value that is out of range.
    """

    kernel_size: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def __post_init__(self) -> None:
        for name, least in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
            _check_whole(name, getattr(self, name), least)

    @property
    def span(self) -> int:
        """Pixels from a kernel's first tap to its last, both counted."""
        return self.dilation * (self.kernel_size - 1) + 1

    def turned(self) -> "Window":
        """The window, at stride 1, that goes from the output back to the input."""
        return Window(self.kernel_size, 1, self.span - 1 - self.padding, self.dilation)

    def out(self, height: int, width: int) -> tuple[int, int]:
        """Size of a convolution's output. Raises ValueError if the kernel does not fit the padded input."""
        if min(height, width) + 2 * self.padding < self.span:
            raise ValueError(
                f"a kernel that spans {self.span} pixels does not fit an input of {height} x {width} pixels"
                f" padded by {self.padding}"
            )
        return (
            (height + 2 * self.padding - self.span) // self.stride + 1,
            (width + 2 * self.padding - self.span) // self.stride + 1,
        )


def im2col(x: Tensor, window: Window) -> Tensor:
    """Unfold: x (N, H, W, C) -> (N, H_out, W_out, kernel_size² · C), one row of taps for each output pixel.

    Source: Chellapilla et al., "High performance convolutional neural networks", 2006, section 3.
    """
    return _taps(x, window).flatten(3)


def _taps(x: Tensor, window: Window) -> Tensor:
    """What im2col copies, as a view of the padded input: (N, H_out, W_out, kernel_size, kernel_size, C)."""
    n, height, width, channels = x.shape
    h_out, w_out = window.out(height, width)
    k, pad, step, gap = window.kernel_size, window.padding, window.stride, window.dilation
    if pad:
        x = torch.constant_pad_nd(x, (0, 0, pad, pad, pad, pad))
    x = x.contiguous()
    sn, sh, sw, sc = x.stride()
    return x.as_strided((n, h_out, w_out, k, k, channels), (sn, step * sh, step * sw, gap * sh, gap * sw, sc))


def col2im(columns: Tensor, shape: tuple[int, ...], window: Window) -> Tensor:
    """Fold: the adjoint of im2col; taps that share an input pixel are summed.

    columns: (N, H_out, W_out, kernel_size² · C) -> (N, H, W, C) = shape.
    """
    n, height, width, channels = shape
    h_out, w_out = columns.shape[1:3]
    k, pad, step, gap = window.kernel_size, window.padding, window.stride, window.dilation
    taps = columns.view(n, h_out, w_out, k, k, channels)
    x = columns.new_zeros(n, height + 2 * pad, width + 2 * pad, channels)
    for i in range(k):
        for j in range(k):
            rows = slice(gap * i, gap * i + step * (h_out - 1) + 1, step)
            cols = slice(gap * j, gap * j + step * (w_out - 1) + 1, step)
            x[:, rows, cols] += taps[:, :, :, i, j]
    return x[:, pad : pad + height, pad : pad + width].contiguous()


def unfolded_product(x: Tensor, window: Window, weight: Tensor) -> Tensor:
    """im2col(x, window) @ weight, made block by block: the columns of the whole never exist."""
    taps = _taps(x, window)
    y = x.new_empty(*taps.shape[:3], weight.shape[1])
    for block in _blocks(taps):
        torch.mm(taps[block].reshape(-1, weight.shape[0]), weight, out=y[block].view(-1, weight.shape[1]))
    return y


def unfolded_gradient(x: Tensor, window: Window, dy: Tensor) -> Tensor:
    """im2col(x, window)' @ dy over all rows, (kernel_size² · C, C_out), made block by block."""
    taps = _taps(x, window)
    rows = window.kernel_size**2 * x.shape[3]
    parts = (taps[b].reshape(-1, rows).T @ dy[b].reshape(-1, dy.shape[3]) for b in _blocks(taps))
    # Blocks are summed in float32 at least: bfloat16 would lose the small ones.
    total = next(parts, dy.new_zeros(rows, dy.shape[3])).to(torch.promote_types(dy.dtype, torch.float32))
    for part in parts:
        total += part
    return total


def turned(weight: Tensor, in_channels: int) -> Tensor:
    """A kernel (k² · C_in, C_out) turned by half a circle, its channels exchanged: (k² · C_out, C_in).

    At stride 1 the gradient of the input is a convolution with it: one product and no scattered sums.
    """
    taps = weight.view(-1, in_channels, weight.shape[1])
    return taps.flip(0).transpose(1, 2).reshape(-1, in_channels)


def _blocks(taps: Tensor) -> Iterator[tuple[slice, slice]]:
    """Samples and rows of the output whose columns fit BLOCK_BYTES: whole samples, or rows of one."""
    n, height = taps.shape[:2]
    row = taps.shape[2:].numel() * taps.element_size()
    most = BLOCK_BYTES if taps.device.type == "cpu" else DEVICE_BLOCK_BYTES
    samples, rows = _evenly(n, most // (row * height)), _evenly(height, most // row)
    for sample in range(0, n, samples):
        for top in range(0, height, rows):
            yield slice(sample, sample + samples), slice(top, top + rows)


def _evenly(count: int, most: int) -> int:
    """The size of the parts, at most `most` and at least 1, that share out `count` as evenly as can be."""
    parts = max(1, -(-count // max(1, most)))
    return max(1, -(-count // parts))


class Conv2d:
    """Cross-correlation as one product, O = unfold(I) · W + b. Source: Dumoulin & Visin 2016, chapter 2.

    weight: (kernel_size² · in_channels, out_channels), its rows in the order of im2col; bias: (out_channels,).
    Weights are drawn from `rng` with variance 2 / fan_in (He et al., "Delving deep into rectifiers", 2015,
    section 2.2), which keeps a signal's variance through the ReLU that follows; biases start at 0.
    """

    layers = ()

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = True,
        rng: torch.Generator | None = None,
    ) -> None:
        self.window = Window(kernel_size, stride, padding, dilation)
        _check_whole("in_channels", in_channels, 1)
        _check_whole("out_channels", out_channels, 1)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.fan_in = kernel_size**2 * in_channels
        weight = torch.randn(self.fan_in, out_channels, generator=rng) * (2 / self.fan_in) ** 0.5
        self.params = {"weight": weight}
        if bias:
            self.params["bias"] = torch.zeros(out_channels)
        self.grads: dict[str, Tensor] = {}

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: (N, H, W, in_channels) -> (N, H_out, W_out, out_channels)."""
        _check_input(self, x, self.in_channels)
        if train:
            self.x = x
        weight = self.params["weight"].to(x.dtype)
        return _add_bias(unfolded_product(x, self.window, weight), self.params)

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy, shaped like y. Sets `grads`; returns dL/dx, shaped like x."""
        # Unfolded a second time: kept from forward, the columns would hold kernel_size² copies of x.
        self.grads = _grads(self.params, unfolded_gradient(self.x, self.window, dy), dy)
        weight = self.params["weight"].to(dy.dtype)
        if self.window.stride == 1 and self.window.padding < self.window.span:
            return unfolded_product(dy, self.window.turned(), turned(weight, self.in_channels))
        return col2im(dy @ weight.T, self.x.shape, self.window)

    @property
    def stride(self) -> int:
        """The input's sides must be multiples of this for the layer to see every pixel alike."""
        return self.window.stride

    @property
    def factor(self) -> Fraction:
        """Output pixels for one input pixel, along one side."""
        return Fraction(1, self.window.stride)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The input pixels that output pixels first..last depend on, along one side."""
        start = first * self.window.stride - self.window.padding
        return start, last * self.window.stride - self.window.padding + self.window.span - 1


class ConvTranspose2d:
    """The adjoint of a convolution with the same window, plus a bias. Source: Dumoulin & Visin 2016, chapter 4.

    Each input pixel lays its kernel on the output: H_out = (H - 1) · stride - 2 · padding + span +
    output_padding. weight: (in_channels, kernel_size² · out_channels), its columns in the order of im2col.
    Weights are drawn with variance 2 / fan_in (He et al. 2015), where fan_in counts the products that meet in
    one output pixel: in_channels · (kernel_size / stride)².
    """

    layers = ()

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        output_padding: int = 0,
        bias: bool = True,
        rng: torch.Generator | None = None,
    ) -> None:
        self.window = Window(kernel_size, stride, padding, dilation)
        if not 0 <= output_padding < max(stride, dilation):
            raise ValueError(
                f"output_padding is at least 0 and less than stride or dilation; got {output_padding}"
                f" with stride {stride} and dilation {dilation}"
            )
        self.output_padding = output_padding
        _check_whole("in_channels", in_channels, 1)
        _check_whole("out_channels", out_channels, 1)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.fan_in = max(1, round(in_channels * (kernel_size / stride) ** 2))
        weight = torch.randn(in_channels, kernel_size**2 * out_channels, generator=rng)
        self.params = {"weight": weight * (2 / self.fan_in) ** 0.5}
        if bias:
            self.params["bias"] = torch.zeros(out_channels)
        self.grads: dict[str, Tensor] = {}

    def out(self, height: int, width: int) -> tuple[int, int]:
        """Size of the output. Raises ValueError if the padding leaves nothing of it."""
        grow = self.window.span + self.output_padding - 2 * self.window.padding
        sizes = tuple((side - 1) * self.window.stride + grow for side in (height, width))
        if min(height, width) < 1 or min(sizes) < 1:
            raise ValueError(
                f"an input of {height} x {width} pixels would give an output of {sizes[0]} x {sizes[1]}"
            )
        return sizes[0], sizes[1]

    def forward(self, x: Tensor, train: bool = False) -> Tensor:
        """x: (N, H, W, in_channels) -> (N, H_out, W_out, out_channels)."""
        _check_input(self, x, self.in_channels)
        if train:
            self.x = x
        shape = (x.shape[0], *self.out(x.shape[1], x.shape[2]), self.out_channels)
        # `output_padding` rows that no tap reaches: the adjoint's convolution stops short of them.
        columns = x @ self.params["weight"].to(x.dtype)
        return _add_bias(col2im(columns, shape, self.window), self.params)

    def backward(self, dy: Tensor) -> Tensor:
        """dy: dL/dy, shaped like y. Sets `grads`; returns dL/dx, shaped like x."""
        # An output padding of a stride or more has room for kernels that no input pixel lays.
        columns = im2col(dy, self.window)[:, : self.x.shape[1], : self.x.shape[2]]
        weight = self.x.flatten(0, 2).T @ columns.flatten(0, 2)
        self.grads = _grads(self.params, weight, dy)
        dx: Tensor = columns @ self.params["weight"].to(dy.dtype).T
        return dx

    @property
    def stride(self) -> int:
        """Any input size will do."""
        return 1

    @property
    def factor(self) -> Fraction:
        """Output pixels for one input pixel, along one side."""
        return Fraction(self.window.stride)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The input pixels that output pixels first..last depend on, along one side."""
        # Output o gets input i where o = i · stride - padding + dilation · tap.
        start = -((self.window.span - 1 - first - self.window.padding) // self.window.stride)
        return start, (last + self.window.padding) // self.window.stride


# The name that the report gives the layer.
Upsampling = ConvTranspose2d


def _check_whole(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is a whole number of at least {least}; got {value!r}")


def _check_input(layer: Conv2d | ConvTranspose2d, x: Tensor, channels: int) -> None:
    weight = layer.params["weight"]
    # bfloat16 goes in where products are wanted in it: weights, gradients and sums stay as they are.
    if x.dim() == 4 and x.numel() and x.shape[3] == channels and x.dtype in (weight.dtype, torch.bfloat16):
        return
    raise ValueError(
        f"{type(layer).__name__} takes (N, H, W, {channels}) of {weight.dtype}; got {tuple(x.shape)} of {x.dtype}"
    )


def _add_bias(y: Tensor, params: dict[str, Tensor]) -> Tensor:
    return y.add_(params["bias"].to(y.dtype)) if "bias" in params else y


def _grads(params: dict[str, Tensor], weight: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """The gradients of a product and of the bias added to it, in the type of the parameters."""
    grads = {"weight": weight.to(params["weight"].dtype)}
    if "bias" in params:
        grads["bias"] = dy.sum((0, 1, 2), dtype=params["bias"].dtype)
    return grads
