"""Convolution and its transpose: two layers, four passes, one adjoint pair of functions (im2col, col2im)."""

from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from engine.layers.compose import Layer, slots
from engine.layers.paths import Path, choose
from engine.layers.strips import WHOLE, Finish, Strip
from engine.layers.window import Window, check_whole, im2col


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
        check_whole("in_channels", in_channels, 1)
        check_whole("out_channels", out_channels, 1)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.fan_in = kernel_size**2 * in_channels
        weight = torch.randn(self.fan_in, out_channels, generator=rng) * (2 / self.fan_in) ** 0.5
        self.params = {"weight": weight}
        if bias:
            self.params["bias"] = torch.zeros(out_channels)
        self.grads: dict[str, Tensor] = {}
        self.prepared, self.prepared_adjoint = _Prepared(), _Prepared()

    def forward(self, x: Tensor, train: bool = False, finish: Finish | None = None) -> Tensor:
        """x: (N, H, W, in_channels) -> im2col(x) @ weight + bias: (N, H_out, W_out, out_channels)."""
        _check_input(self, x, self.in_channels)
        x = x.contiguous()
        if train:
            self.x = x
        path = self._path(x)
        prepared = self.prepared.of(self.params["weight"], path.prepare, x.dtype)
        return path.product(x, prepared, _with_bias(self.params, finish))

    def backward(self, dy: Tensor, finish: Finish | None = None, wanted: bool = True) -> Tensor:
        """dy: dL/dy, shaped like y. Sets `grads`; returns dL/dx = col2im(dy @ weight'), shaped like x."""
        dy = dy.contiguous()
        path = self._path(dy)
        # Unfolded a second time: kept from forward, the columns would hold kernel_size² copies of x.
        self.grads = _grads(self.params, path.gradient(self.x, dy), dy)
        if not wanted:
            return dy
        prepared = self.prepared_adjoint.of(self.params["weight"], path.prepare_adjoint, dy.dtype)
        return path.adjoint(dy, prepared, self.x.shape, finish)

    def _path(self, x: Tensor) -> Path:
        return choose(self.window, self.in_channels, self.out_channels, x.dtype, x.device)

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
        check_whole("in_channels", in_channels, 1)
        check_whole("out_channels", out_channels, 1)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.fan_in = max(1, round(in_channels * (kernel_size / stride) ** 2))
        weight = torch.randn(in_channels, kernel_size**2 * out_channels, generator=rng)
        self.params = {"weight": weight * (2 / self.fan_in) ** 0.5}
        if bias:
            self.params["bias"] = torch.zeros(out_channels)
        self.grads: dict[str, Tensor] = {}
        self.prepared, self.prepared_adjoint = _Prepared(), _Prepared()

    def out(self, height: int, width: int) -> tuple[int, int]:
        """Size of the output. Raises ValueError if the padding leaves nothing of it."""
        grow = self.window.span + self.output_padding - 2 * self.window.padding
        sizes = tuple((side - 1) * self.window.stride + grow for side in (height, width))
        if min(height, width) < 1 or min(sizes) < 1:
            raise ValueError(
                f"an input of {height} x {width} pixels would give an output of {sizes[0]} x {sizes[1]}"
            )
        return sizes[0], sizes[1]

    def forward(self, x: Tensor, train: bool = False, finish: Finish | None = None) -> Tensor:
        """x: (N, H, W, in_channels) -> col2im(x @ weight) + bias: (N, H_out, W_out, out_channels)."""
        _check_input(self, x, self.in_channels)
        x = x.contiguous()
        if train:
            self.x = x
        shape = (x.shape[0], *self.out(x.shape[1], x.shape[2]), self.out_channels)
        path = self._path(x)
        prepared = self.prepared.of(self.params["weight"].T, path.prepare_adjoint, x.dtype)
        return path.adjoint(x, prepared, shape, _with_bias(self.params, finish))

    def backward(self, dy: Tensor, finish: Finish | None = None, wanted: bool = True) -> Tensor:
        """dy: dL/dy, shaped like y. Sets `grads`; returns dL/dx = im2col(dy) @ weight', shaped like x."""
        dy = dy.contiguous()
        path = self._path(dy)
        if self.window.out(*dy.shape[1:3]) != self.x.shape[1:3]:
            return self._backward_with_room(dy, finish)
        self.grads = _grads(self.params, path.gradient(dy, self.x).T, dy)
        if not wanted:
            return dy
        prepared = self.prepared_adjoint.of(self.params["weight"].T, path.prepare, dy.dtype)
        return path.product(dy, prepared, finish)

    def _backward_with_room(self, dy: Tensor, finish: Finish | None) -> Tensor:
        """An output padding of a stride or more has room for kernels that no input pixel lays."""
        columns = im2col(dy, self.window)[:, : self.x.shape[1], : self.x.shape[2]]
        self.grads = _grads(self.params, self.x.flatten(0, 2).T @ columns.flatten(0, 2), dy)
        dx: Tensor = columns @ self.params["weight"].to(dy.dtype).T
        if finish:
            finish(dx, WHOLE)
        return dx

    def _path(self, x: Tensor) -> Path:
        # The convolution that this is the adjoint of goes from the output's channels to the input's.
        return choose(self.window, self.out_channels, self.in_channels, x.dtype, x.device)

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


class _Prepared:
    """A weight as a path wants it, made anew when the weight has changed."""

    def __init__(self) -> None:
        self.held: tuple[tuple[object, ...], Tensor, Tensor] | None = None

    def of(self, weight: Tensor, prepare: Callable[[Tensor, torch.dtype], Tensor], dtype: torch.dtype) -> Tensor:
        """prepare(weight, dtype)."""
        # torch counts the changes made in place. The weight is held as well, so that no other takes its address.
        key = (weight.data_ptr(), weight._version, weight.stride(), prepare, dtype)
        held = self.held
        if held is None or held[0] != key:
            # In one assignment: other threads see all of it or nothing.
            held = self.held = (key, weight, prepare(weight.contiguous(), dtype))
        return held[2]


def forget_prepared(net: Layer) -> None:
    """Drop what weights were made into, up to four times as large as they. The next call makes it anew."""
    for slot in slots(net):
        if isinstance(slot.layer, Conv2d | ConvTranspose2d):
            slot.layer.prepared, slot.layer.prepared_adjoint = _Prepared(), _Prepared()


def _check_input(layer: Conv2d | ConvTranspose2d, x: Tensor, channels: int) -> None:
    weight = layer.params["weight"]
    # bfloat16 goes in where products are wanted in it: weights, gradients and sums stay as they are.
    if x.dim() == 4 and x.numel() and x.shape[3] == channels and x.dtype in (weight.dtype, torch.bfloat16):
        return
    raise ValueError(
        f"{type(layer).__name__} takes (N, H, W, {channels}) of {weight.dtype}; got {tuple(x.shape)} of {x.dtype}"
    )


def _with_bias(params: dict[str, Tensor], finish: Finish | None) -> Finish | None:
    """What is done to a part of the result: the bias added, then what else there is to do."""
    if "bias" not in params:
        return finish

    def add(part: Tensor, strip: Strip) -> None:
        part.add_(params["bias"].to(part.dtype))
        if finish:
            finish(part, strip)

    return add


def _grads(params: dict[str, Tensor], weight: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """The gradients of a product and of the bias added to it, in the type of the parameters."""
    grads = {"weight": weight.to(params["weight"].dtype)}
    if "bias" in params:
        grads["bias"] = dy.sum((0, 1, 2), dtype=params["bias"].dtype)
    return grads
