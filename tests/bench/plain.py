"""The networks by the definition alone: unfold all of the input, one product, fold; no faster path anywhere.

It measures what the engine's own paths gain, and stays valid whatever they become: for its products it uses
only the adjoint pair im2col and col2im.
"""

from fractions import Fraction

from torch import Tensor

from engine.layers import Compute, Conv2d, ConvTranspose2d, Layer, Residual, Sequential, col2im, im2col
from engine.layers.strips import WHOLE, Finish


class PlainConv2d:
    """A Conv2d's place, with its parameters."""

    layers = ()

    def __init__(self, layer: Conv2d) -> None:
        self.layer, self.params = layer, layer.params
        self.grads: dict[str, Tensor] = {}

    def forward(self, x: Tensor, train: bool = False, finish: Finish | None = None) -> Tensor:
        """x: (N, H, W, C_in) -> (N, H_out, W_out, C_out)."""
        if train:
            self.x = x
        y = im2col(x, self.layer.window) @ self.params["weight"].to(x.dtype)
        return _finished(_with_bias(y, self.params), finish)

    def backward(self, dy: Tensor, finish: Finish | None = None, wanted: bool = True) -> Tensor:
        """dy: dL/dy -> dL/dx; sets `grads`."""
        self.grads = _grads(self.weight_gradient(self.x, dy), dy, self.params)
        return _finished(self.input_gradient(self.x, dy), finish)

    def weight_gradient(self, x: Tensor, dy: Tensor) -> Tensor:
        """dL/dW, (kernel_size² · C_in, C_out)."""
        return im2col(x, self.layer.window).flatten(0, 2).T @ dy.flatten(0, 2)

    def input_gradient(self, x: Tensor, dy: Tensor) -> Tensor:
        """dL/dx, shaped like x."""
        return col2im(dy @ self.params["weight"].to(dy.dtype).T, x.shape, self.layer.window)

    @property
    def stride(self) -> int:
        """The layer's own."""
        return self.layer.stride

    @property
    def factor(self) -> Fraction:
        """The layer's own."""
        return self.layer.factor

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The layer's own."""
        return self.layer.inputs_of(first, last)


class PlainConvTranspose2d(PlainConv2d):
    """A ConvTranspose2d's place, with its parameters."""

    def __init__(self, layer: ConvTranspose2d) -> None:
        self.layer, self.params = layer, layer.params
        self.grads = {}

    def forward(self, x: Tensor, train: bool = False, finish: Finish | None = None) -> Tensor:
        """x: (N, H, W, C_in) -> (N, H_out, W_out, C_out)."""
        if train:
            self.x = x
        shape = (x.shape[0], *self.layer.out(x.shape[1], x.shape[2]), self.layer.out_channels)
        columns = x @ self.params["weight"].to(x.dtype)
        return _finished(_with_bias(col2im(columns, shape, self.layer.window), self.params), finish)

    def weight_gradient(self, x: Tensor, dy: Tensor) -> Tensor:
        """dL/dW, (C_in, kernel_size² · C_out)."""
        return x.flatten(0, 2).T @ self._columns(x, dy).flatten(0, 2)

    def input_gradient(self, x: Tensor, dy: Tensor) -> Tensor:
        """dL/dx, shaped like x."""
        return self._columns(x, dy) @ self.params["weight"].to(dy.dtype).T

    def _columns(self, x: Tensor, dy: Tensor) -> Tensor:
        # An output padding can leave room for kernels that no input pixel lays.
        return im2col(dy, self.layer.window)[:, : x.shape[1], : x.shape[2]]


def plain(layer: Layer) -> Layer:
    """The same network by the definition, sharing its parameters' tensors as they are now.

    Raises TypeError for layers made of layers that are not known here.
    """
    if isinstance(layer, ConvTranspose2d):
        return PlainConvTranspose2d(layer)
    if isinstance(layer, Conv2d):
        return PlainConv2d(layer)
    if not layer.layers:
        return type(layer)(layer.block) if hasattr(layer, "block") else type(layer)()
    inside = [plain(inner) for inner in layer.layers]
    if isinstance(layer, Compute):
        return Compute(layer.dtype, *inside)
    if type(layer) not in (Sequential, Residual):
        raise TypeError(f"what {type(layer).__name__} does by the definition is not known here")
    return type(layer)(*inside)


def _with_bias(y: Tensor, params: dict[str, Tensor]) -> Tensor:
    return y.add_(params["bias"].to(y.dtype)) if "bias" in params else y


def _finished(y: Tensor, finish: Finish | None) -> Tensor:
    """What the layers around it want done to the result, done to all of it at once."""
    if finish:
        finish(y, WHOLE)
    return y


def _grads(weight: Tensor, dy: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
    grads = {"weight": weight.to(params["weight"].dtype)}
    if "bias" in params:
        grads["bias"] = dy.sum((0, 1, 2), dtype=params["bias"].dtype)
    return grads
