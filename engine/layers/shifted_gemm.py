"""Shifted GEMM: convolutions at stride 1 on a GPU, as a few large matrix products on the padded image.

Nothing is unfolded. The k taps of one kernel row are k · C numbers that lie side by side in memory: a run. The
runs that begin at every k-th pixel lie end to end, so they are the rows of a matrix. Each row of the kernel
therefore takes k products, one for each first pixel, and each product adds to every k-th pixel of the result.

Untried on a GPU: nobody has run it there. The tests compare it on a CPU, and tests/engine/test_gpu.py on a GPU.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from engine.layers.unfold import ConvGeometry


def fits(x: Tensor, geometry: ConvGeometry, size: tuple[int, int]) -> bool:
    """Whether this form applies: on a GPU, at stride 1, without dilation, to an output of full size."""
    if x.device.type == "cpu" or geometry.stride != 1 or geometry.dilation != 1:
        return False
    return geometry.out(x.shape[1], x.shape[2]) == size


def product(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """The convolution im2col(x) @ weight: x (N, H, W, C) -> y (N, H_out, W_out, C_out)."""
    rows = _Rows(x, geometry)
    k, channels = geometry.kernel_size, weight.shape[1]
    y = x.new_zeros(rows.count + k, channels)
    kernel = weight.view(k, -1, channels)
    for row, column, runs in rows.runs():
        out = y[column:].as_strided((len(runs), channels), (k * channels, 1))
        torch.addmm(out, runs, kernel[row], out=out)
    height, width = geometry.out(x.shape[1], x.shape[2])
    whole = y[: rows.count].view(len(x), rows.high, rows.wide, channels)
    return whole[:, :height, :width].contiguous()


def gradient(x: Tensor, y: Tensor, geometry: ConvGeometry) -> Tensor:
    """The gradient of the weight, im2col(x)' @ y over all pixels: (k² · C, C_out), in at least float32."""
    rows = _Rows(x, geometry)
    k, channels = geometry.kernel_size, y.shape[3]
    # y on the grid of the padded image: 0 at the pixels where no kernel position begins.
    spread = y.new_zeros(rows.count + k, channels)
    whole = spread[: rows.count].view(len(x), rows.high, rows.wide, channels)
    whole[:, : y.shape[1], : y.shape[2]] = y
    result = torch.zeros(
        k, k * x.shape[3], channels, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device
    )
    for row, column, runs in rows.runs():
        dy = spread[column:].as_strided((len(runs), channels), (k * channels, 1))
        result[row] += runs.T @ dy
    return result.view(-1, channels)


class _Rows:
    """A padded batch, flattened to one sequence of pixels."""

    def __init__(self, x: Tensor, geometry: ConvGeometry) -> None:
        pad, self.k = geometry.padding, geometry.kernel_size
        padded = torch.constant_pad_nd(x, (0, 0, pad, pad, pad, pad))
        self.high, self.wide, self.channels = padded.shape[1:]
        self.count = len(x) * self.high * self.wide
        # How many pixels past the end a kernel reads that begins at the last pixel.
        beyond = (self.k - 1) * (self.wide + 1) + self.k
        self.pixels = torch.cat((padded.reshape(-1), x.new_zeros(beyond * self.channels)))

    def runs(self) -> Iterator[tuple[int, int, Tensor]]:
        """Yields the row and the column of the kernel, and the matrix of runs (pixels / k, k · C).

        The runs begin at the column, and so does their result.
        """
        count, run = -(-self.count // self.k), self.k * self.channels
        for row in range(self.k):
            for column in range(self.k):
                first = (row * self.wide + column) * self.channels
                yield row, column, self.pixels.as_strided((count, run), (run, 1), first)
