"""Convolutions at stride 1 on a GPU: a few large products that read the padded image in place, not unfolded.

A kernel's k taps in one row of pixels are one run of numbers in memory. The runs that begin at every k-th pixel
lie end to end: they are the rows of a matrix. So each row of the kernel takes k products. Each of them adds to
every k-th pixel of the result.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from engine.layers.unfold import ConvGeometry


def fits(x: Tensor, geometry: ConvGeometry, size: tuple[int, int]) -> bool:
    """Whether this form is for x: a GPU, stride 1, no dilation, the whole result."""
    if x.device.type == "cpu" or geometry.stride != 1 or geometry.dilation != 1:
        return False
    return geometry.out(x.shape[1], x.shape[2]) == size


def product(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """x (N, H, W, C) -> im2col(x) @ weight: (N, H_out, W_out, C_out)."""
    rows = _Rows(x, geometry)
    k, channels = geometry.kernel_size, weight.shape[1]
    y = x.new_zeros(rows.count + k, channels)
    kernel = weight.view(k, -1, channels)
    for row, place, runs in rows.runs():
        out = y[place:].as_strided((len(runs), channels), (k * channels, 1))
        torch.addmm(out, runs, kernel[row], out=out)
    height, width = geometry.out(x.shape[1], x.shape[2])
    whole = y[: rows.count].view(len(x), rows.high, rows.wide, channels)
    return whole[:, :height, :width].contiguous()


def gradient(x: Tensor, y: Tensor, geometry: ConvGeometry) -> Tensor:
    """im2col(x)' @ y over all rows: (k² · C, C_out), in float32 at least."""
    rows = _Rows(x, geometry)
    k, channels = geometry.kernel_size, y.shape[3]
    # Where the padded image has pixels that no window begins at, y has zeros.
    spread = y.new_zeros(rows.count + k, channels)
    whole = spread[: rows.count].view(len(x), rows.high, rows.wide, channels)
    whole[:, : y.shape[1], : y.shape[2]] = y
    made = torch.zeros(
        k, k * x.shape[3], channels, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device
    )
    for row, place, runs in rows.runs():
        given = spread[place:].as_strided((len(runs), channels), (k * channels, 1))
        made[row] += runs.T @ given
    return made.view(-1, channels)


class _Rows:
    """A padded batch as one row of pixels after the other."""

    def __init__(self, x: Tensor, geometry: ConvGeometry) -> None:
        pad, self.k = geometry.padding, geometry.kernel_size
        padded = torch.constant_pad_nd(x, (0, 0, pad, pad, pad, pad))
        self.high, self.wide, self.channels = padded.shape[1:]
        self.count = len(x) * self.high * self.wide
        # What a kernel that begins at the last pixels reads beyond them.
        beyond = (self.k - 1) * (self.wide + 1) + self.k
        self.pixels = torch.cat((padded.reshape(-1), x.new_zeros(beyond * self.channels)))

    def runs(self) -> Iterator[tuple[int, int, Tensor]]:
        """The kernel's row, the first pixel of the result, and (pixels / k, k · C)."""
        count, run = -(-self.count // self.k), self.k * self.channels
        for row in range(self.k):
            for place in range(self.k):
                first = (row * self.wide + place) * self.channels
                yield row, place, self.pixels.as_strided((count, run), (run, 1), first)
