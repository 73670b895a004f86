"""Convolution and its transpose: two layers, four passes, one adjoint pair of functions (im2col, col2im)."""

from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from engine.layers import compiled, kernels, plain
from engine.layers.containers import Module, parameters
from engine.layers.plain import Epilogue
from engine.layers.unfold import ConvGeometry, check_whole


class _Convolution:
    """What both layers share: the three products, with the weight packed where kernels run."""

    layers = ()

    def __init__(self, geometry: ConvGeometry, in_channels: int, out_channels: int) -> None:
        check_whole("in_channels", in_channels, 1)
        check_whole("out_channels", out_channels, 1)
        self.geometry, self.in_channels, self.out_channels = geometry, in_channels, out_channels
        # Kept by a forward pass with train=True.
        self.x: Tensor
        self.params: dict[str, Tensor] = {}
        self.grads: dict[str, Tensor] = {}
        # By direction, and by whether the sides fit the stride: on both depends how a weight is packed.
        self._packed: dict[tuple[bool, bool], _Packed] = {}

    @property
    def by_kernels(self) -> bool:
        """Whether the kernels in C run it, which need no memory but for what goes in and comes out."""
        return kernels.chosen() is not None and self.params["weight"].device.type == "cpu"

    def drop_packed_weights(self) -> None:
        """Drop what the weight was packed into, several times as large. The next call packs it anew."""
        self._packed = {}

    def _product(
        self, x: Tensor, weight: Tensor, size: tuple[int, int], epilogue: Epilogue, keep: bool
    ) -> Tensor:
        """im2col(x) @ weight, of the given height and width. keep: the packed weight, for the next call."""
        if compiled.supports(x):
            packed = self._pack(weight, False, True, x.dtype, keep)
            return compiled.product(x, packed, self.geometry, size, weight.shape[1], epilogue)
        return plain.product(x, weight, self.geometry, size, epilogue)

    def _adjoint(
        self, y: Tensor, weight: Tensor, size: tuple[int, int], epilogue: Epilogue, keep: bool
    ) -> Tensor:
        """col2im(y @ weight'), of the given height and width. keep: the packed weight, for the next call."""
        if compiled.supports(y):
            whole = size == (y.shape[1] * self.geometry.stride, y.shape[2] * self.geometry.stride)
            packed = self._pack(weight, True, whole, y.dtype, keep)
            channels = len(weight) // self.geometry.kernel_size**2
            return compiled.adjoint(y, packed, self.geometry, size, channels, epilogue)
        return plain.adjoint(y, weight, self.geometry, size, epilogue)

    def _gradient(self, x: Tensor, y: Tensor, transposed: bool) -> Tensor:
        """im2col(x)' @ y or its transpose, in the type of the parameters."""
        if compiled.supports(x):
            return compiled.gradient(x, y, self.geometry, transposed).to(self.params["weight"].dtype)
        made = plain.gradient(x, y, self.geometry).to(self.params["weight"].dtype)
        return made.T.contiguous() if transposed else made

    def _pack(self, weight: Tensor, adjoint: bool, whole: bool, dtype: torch.dtype, keep: bool) -> Tensor:
        # Training uses a packed weight once: then one piece of memory serves all layers, and stays in the cache.
        if not keep:
            return compiled.pack(weight, self.geometry, adjoint, dtype, whole)
        packed = self._packed.get((adjoint, whole))
        # torch counts the changes made in place, but for those through `.data` or numpy: after one, call
        # `drop_packed_weights`. The weight is held as well, so that no other takes its address.
        key = (weight.data_ptr(), weight._version, weight.stride(), dtype, kernels.name())
        if packed is None or packed.key != key:
            value = compiled.pack(weight, self.geometry, adjoint, dtype, whole, keep)
            # In one assignment: other threads see all of it or nothing.
            packed = self._packed[adjoint, whole] = _Packed(key, weight, value)
        return packed.value

    def _checked_gradient(self, dy: Tensor, size: tuple[int, int]) -> Tensor:
        """dy, contiguous. Raises ValueError if it is not shaped like a result of that height and width."""
        shape = (len(self.x), *size, self.out_channels)
        if tuple(dy.shape) != shape or dy.dtype != self.x.dtype:
            raise ValueError(
                f"dy must have y's shape and type, {shape} of {self.x.dtype}; got {tuple(dy.shape)} of {dy.dtype}"
            )
        return dy.contiguous()

    def _set_gradients(self, weight: Tensor, dy: Tensor) -> None:
        self.grads = {"weight": weight}
        if "bias" in self.params:
            dtype = self.params["bias"].dtype
            fast = compiled.supports(dy) and dtype == torch.float32
            self.grads["bias"] = compiled.column_sums(dy) if fast else dy.sum((0, 1, 2), dtype=dtype)

    def _checked(self, x: Tensor) -> Tensor:
        """x, contiguous. Raises ValueError for another shape or type than the layer takes."""
        dtype = self.params["weight"].dtype
        # bfloat16 goes in where products are wanted in it: weights, gradients and sums stay as they are.
        if x.dim() == 4 and x.numel() and x.shape[3] == self.in_channels and x.dtype in (dtype, torch.bfloat16):
            return x.contiguous()
        raise ValueError(
            f"{type(self).__name__} takes (N, H, W, {self.in_channels}) of {dtype};"
            f" got {tuple(x.shape)} of {x.dtype}"
        )

    def _bytes(self, scale: Fraction, made_scale: Fraction, size: int, columns: Fraction) -> Fraction:
        """What the layer holds at once for each pixel of the network's input; see Module.memory."""
        given, made = self.in_channels * scale**2, self.out_channels * made_scale**2
        # The plain path holds the columns as well, and a padded copy of the side with more pixels.
        unfolded = Fraction(0) if self.by_kernels else columns + bool(self.geometry.padding) * max(given, made)
        # A rearrangement that follows holds what it is given and as much again.
        return max(given + unfolded + made, 2 * made) * size


class _Packed(NamedTuple):
    key: tuple[object, ...]
    weight: Tensor
    value: Tensor


class Conv2d(_Convolution):
    """Cross-correlation as one product, O = unfold(I) · W + b. Source: Dumoulin & Visin 2016, chapter 2.

    weight: (kernel_size² · in_channels, out_channels), its rows in the order of im2col; bias: (out_channels,).
    Weights are drawn from `rng` with variance 2 / fan_in (He et al., "Delving deep into rectifiers", 2015,
    section 2.2), which keeps a signal's variance through the ReLU that follows; biases start at 0.
    """

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
        super().__init__(ConvGeometry(kernel_size, stride, padding, dilation), in_channels, out_channels)
        self.fan_in = kernel_size**2 * in_channels
        self.params["weight"] = torch.randn(self.fan_in, out_channels, generator=rng) * (2 / self.fan_in) ** 0.5
        if bias:
            self.params["bias"] = torch.zeros(out_channels)

    def forward(self, x: Tensor, train: bool = False, add: Tensor | None = None, relu: bool = False) -> Tensor:
        """x: (N, H, W, in_channels) -> y = im2col(x) @ weight + bias + add: (N, H_out, W_out, out_channels).

        relu: y is max(y, 0). Without train, y may take the place of `add`.
        """
        x = self._checked(x)
        if train:
            self.x = x
        size = self.geometry.out(x.shape[1], x.shape[2])
        epilogue = Epilogue(self.params.get("bias"), add, relu, in_place=not train)
        return self._product(x, self.params["weight"], size, epilogue, keep=not train)

    def backward(self, dy: Tensor, add: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """dy: dL/dy, shaped like y. Sets `grads`; returns dL/dx = col2im(dy @ weight') + add, shaped like x.

        mask: dL/dx is 0 where it is not above 0.
        """
        dy = self._checked_gradient(dy, self.geometry.out(self.x.shape[1], self.x.shape[2]))
        self._set_gradients(self._gradient(self.x, dy, transposed=False), dy)
        size = (self.x.shape[1], self.x.shape[2])
        return self._adjoint(dy, self.params["weight"], size, Epilogue(add=add, mask=mask), keep=False)

    @property
    def stride(self) -> int:
        """The input's sides must be multiples of this for the layer to see every pixel alike."""
        return self.geometry.stride

    @property
    def factor(self) -> Fraction:
        """Output pixels for one input pixel, along one side."""
        return Fraction(1, self.geometry.stride)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The input pixels that output pixels first..last depend on, along one side."""
        start = first * self.geometry.stride - self.geometry.padding
        return start, last * self.geometry.stride - self.geometry.padding + self.geometry.span - 1

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """Bytes held at once for each pixel of the network's input."""
        made = scale * self.factor
        return self._bytes(scale, made, size, self.fan_in * made**2)


class ConvTranspose2d(_Convolution):
    """The adjoint of a convolution with the same window, plus a bias. Source: Dumoulin & Visin 2016, chapter 4.

    Each input pixel lays its kernel on the output: H_out = (H - 1) · stride - 2 · padding + span +
    output_padding. weight: (in_channels, kernel_size² · out_channels), its columns in the order of im2col.
    Weights are drawn with variance 2 / fan_in (He et al. 2015), where fan_in counts the products that meet in
    one output pixel: in_channels · (kernel_size / stride)².
    """

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
        super().__init__(ConvGeometry(kernel_size, stride, padding, dilation), in_channels, out_channels)
        if not 0 <= output_padding < max(stride, dilation):
            raise ValueError(
                f"output_padding is at least 0 and less than stride or dilation; got {output_padding}"
                f" with stride {stride} and dilation {dilation}"
            )
        self.output_padding = output_padding
        self.fan_in = max(1, round(in_channels * (kernel_size / stride) ** 2))
        weight = torch.randn(in_channels, kernel_size**2 * out_channels, generator=rng)
        self.params["weight"] = weight * (2 / self.fan_in) ** 0.5
        if bias:
            self.params["bias"] = torch.zeros(out_channels)

    def out(self, height: int, width: int) -> tuple[int, int]:
        """Size of the output. Raises ValueError if the padding leaves nothing of it."""
        grow = self.geometry.span + self.output_padding - 2 * self.geometry.padding
        sizes = tuple((side - 1) * self.geometry.stride + grow for side in (height, width))
        if min(height, width) < 1 or min(sizes) < 1:
            raise ValueError(
                f"an input of {height} x {width} pixels would give an output of {sizes[0]} x {sizes[1]}"
            )
        return sizes[0], sizes[1]

    def forward(self, x: Tensor, train: bool = False, add: Tensor | None = None, relu: bool = False) -> Tensor:
        """x: (N, H, W, in_channels) -> y = col2im(x @ weight) + bias + add: (N, H_out, W_out, out_channels).

        relu: y is max(y, 0). Without train, y may take the place of `add`.
        """
        x = self._checked(x)
        if train:
            self.x = x
        size = self.out(x.shape[1], x.shape[2])
        epilogue = Epilogue(self.params.get("bias"), add, relu, in_place=not train)
        return self._adjoint(x, self.params["weight"].T, size, epilogue, keep=not train)

    def backward(self, dy: Tensor, add: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """dy: dL/dy, shaped like y. Sets `grads`; returns dL/dx = im2col(dy) @ weight' + add, shaped like x.

        mask: dL/dx is 0 where it is not above 0.
        """
        dy = self._checked_gradient(dy, self.out(self.x.shape[1], self.x.shape[2]))
        self._set_gradients(self._gradient(dy, self.x, transposed=True), dy)
        size = (self.x.shape[1], self.x.shape[2])
        return self._product(dy, self.params["weight"].T, size, Epilogue(add=add, mask=mask), keep=False)

    @property
    def stride(self) -> int:
        """Any input size will do."""
        return 1

    @property
    def factor(self) -> Fraction:
        """Output pixels for one input pixel, along one side."""
        return Fraction(self.geometry.stride)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The input pixels that output pixels first..last depend on, along one side."""
        # Output o gets input i where o = i · stride - padding + dilation · tap.
        start = -((self.geometry.span - 1 - first - self.geometry.padding) // self.geometry.stride)
        return start, (last + self.geometry.padding) // self.geometry.stride

    def memory(self, scale: Fraction, size: int) -> Fraction:
        """Bytes held at once for each pixel of the network's input."""
        columns = self.geometry.kernel_size**2 * self.out_channels * scale**2
        return self._bytes(scale, scale * self.factor, size, columns)


# The name that the report gives the layer.
Upsampling = ConvTranspose2d


def drop_packed_weights(net: Module) -> None:
    """Drop what the weights of a network were packed into, several times as large as they."""
    for parameter in parameters(net):
        if isinstance(parameter.layer, _Convolution):
            parameter.layer.drop_packed_weights()
