"""Grain: puts a share of the fine brightness noise back, because a perfectly smooth surface can look unnatural.

The grain is what was removed, without two parts that look like faults and not like film:

- its colour: the same grain goes to all channels;
- its coarse part, which is the mean of a neighbourhood: blotches stay removed.
"""

import torch
from torch import Tensor

from engine.imageio.image import LUMA, WHITE
from engine.inference.tiling import strips

# Side of the neighbourhood, in pixels. Of the power of the removed brightness noise, 8 to 17 % is coarser in
# cameras' noise, and 1 to 5 % in white noise.
SIDE = 5
# Rows that are handled at a time.
STRIP_ROWS = 256


def put_back_grain(clean: Tensor, noisy: Tensor, share: float) -> None:
    """Adds this share of the grain to `clean`, in place.

    clean, noisy: samples (H, W, C) of any type that an Image has, in the same units; `clean` may be floats where
    `noisy` is not. Integers are clipped and rounded.
    """
    removed = torch.empty(clean.shape[:2])
    for rows in strips(len(clean), STRIP_ROWS):
        change = noisy[rows].float() - clean[rows].float()
        removed[rows] = change @ change.new_tensor(LUMA) if change.shape[2] == 3 else change.squeeze(2)
    for rows in strips(len(clean), STRIP_ROWS):
        # With the neighbours of its first and its last row.
        first = max(0, rows.start - SIDE // 2)
        part = removed[first : rows.stop + SIDE // 2]
        fine = (part - local_mean(part, SIDE))[rows.start - first :][:STRIP_ROWS]
        grainy = clean[rows].float() + share * fine.unsqueeze(2)
        if not clean.is_floating_point():
            grainy = grainy.clamp_(0, WHITE[clean.dtype]).round_()
        clean[rows] = grainy.to(clean.dtype)


def local_mean(x: Tensor, side: int) -> Tensor:
    """(h, w) -> (h, w): the mean of each neighbourhood of `side` x `side` pixels, as far as it lies inside."""

    def along_rows(y: Tensor) -> Tensor:
        return torch.avg_pool1d(y.unsqueeze(1), side, 1, side // 2, False, False).squeeze(1)

    return along_rows(along_rows(x).T).T
