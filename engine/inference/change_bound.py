"""Change bound: no region of an image changes by more than the noise that it can have.

An image with little or no noise has detail that looks like noise. Where a network takes some of it, the change is
scaled down, region by region, by the share of its power that noise can be. That leaves the least expected error,
as in Wiener's filter, and the root mean square of the change stays within the bound.
"""

import torch
from torch import Tensor

# Side of a region in pixels.
REGION = 32
# Rows of regions that are handled at a time.
STRIP_REGIONS = 8


def bound_change(clean: Tensor, noisy: Tensor, bound: float) -> None:
    """Scale the change down where it is larger, in place.

    clean, noisy: (H, W, C) of any type that an Image has. bound: the largest root mean square of a region's
    change, over its pixels and channels, in samples. A region is a square of REGION pixels.
    """
    for top in range(0, len(clean), STRIP_REGIONS * REGION):
        rows = slice(top, top + STRIP_REGIONS * REGION)
        before, after = noisy[rows].float(), clean[rows].float()
        change = after - before
        rms = _region_rms(change)
        # Also where nothing may change, and nothing did.
        shares = torch.where(rms > bound, (bound / rms).square(), 1.0)
        if not bool((shares < 1).any()):
            continue
        each = shares.repeat_interleave(REGION, 0)[: len(change)].repeat_interleave(REGION, 1)
        bounded = before + each[:, : change.shape[1]].unsqueeze(2) * change
        if not clean.is_floating_point():
            # Towards the samples before: rounding must not add to the change.
            bounded = torch.where(bounded > before, bounded.floor(), bounded.ceil())
        clean[rows] = bounded.to(clean.dtype).where((each[:, : change.shape[1]] < 1).unsqueeze(2), clean[rows])


def _region_rms(change: Tensor) -> Tensor:
    """(h, w, C) -> (rows, columns): the root mean square in each region."""
    height, width = change.shape[:2]
    rows, columns = -(-height // REGION), -(-width // REGION)
    squares = change.new_zeros(rows * REGION, columns * REGION)
    squares[:height, :width] = change.square().mean(2)
    counts = change.new_zeros(rows * REGION, columns * REGION)
    counts[:height, :width] = 1
    sums, pixels = (x.view(rows, REGION, columns, REGION).sum((1, 3)) for x in (squares, counts))
    return (sums / pixels).sqrt()
