"""Shift by a part of a pixel: puts an output where a target lies whose scene is a little elsewhere.

The output is moved and not the target, since interpolation would let the target's neighbouring pixels share
noise, and the network would learn that noise.
"""

import torch
from torch import Tensor

# Pixels on each side that a moved pixel is made of.
REACH = 4


class SubpixelShift:
    """Moves each sample down and right by up to half a pixel. Beyond the borders it takes 0.

    Along each axis, a pixel is the value of the polynomial of degree 8 through the 9 nearest pixels (Lagrange).
    Source: Laakso et al., "Splitting the unit delay", IEEE Signal Processing Magazine 1996, section 3.3.
    """

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        """x: (N, H, W, C); shift: (N, 2), pixels down and right, at most 0.5 -> moved, shaped like x.

        moved[p] = sum over k of w(k - shift) x[p - k]
        """
        if shift.shape != (len(x), 2):
            raise ValueError(f"the shift must have the shape {(len(x), 2)}; got {tuple(shift.shape)}")
        for axis in (1, 2):
            x = _filtered(x, _taps(shift[:, axis - 1].to(x.dtype)), axis)
        return x

    def backward(self, dy: Tensor, shift: Tensor) -> Tensor:
        """dL/dx, shaped like dy: the weights are even, so the adjoint moves back."""
        return self.forward(dy, -shift)


def _taps(shift: Tensor) -> Tensor:
    """(N,) -> (N, 2 REACH + 1): the weight of each pixel from REACH before to REACH after.

    w_k(d) = product over m != k of (d - m) / (k - m). They are even, w_k(d) = w_-k(-d), and their sum is 1.
    """
    places = torch.arange(-REACH, REACH + 1, dtype=shift.dtype, device=shift.device)
    from_places = (shift[:, None] - places)[:, None]
    between = places[:, None] - places
    same = torch.eye(len(places), dtype=torch.bool, device=shift.device)
    return torch.where(same, 1.0, from_places / between.masked_fill(same, 1.0)).prod(2)


def _filtered(x: Tensor, taps: Tensor, axis: int) -> Tensor:
    size = x.shape[axis]
    padding = (0, 0, REACH, REACH) if axis == 2 else (0, 0, 0, 0, REACH, REACH)
    padded = torch.constant_pad_nd(x, padding)
    moved = torch.zeros_like(x)
    for number in range(2 * REACH + 1):
        # The pixel k = number - REACH before this one.
        before = padded.narrow(axis, 2 * REACH - number, size)
        moved.addcmul_(taps[:, number].view(-1, 1, 1, 1), before)
    return moved
