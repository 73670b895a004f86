"""Small scenes for tests of noise models."""

import torch

from engine.data.patch_store import CropBoxes, PatchBatch, PatchStore
from tests.support.pixels import random_pixels


def speckled(side, seed=0):
    """A square of random pixels, uint8 (side, side, 3)."""
    return random_pixels(side, side, seed)


def scene_batch(*scenes, device="cpu"):
    """A batch of these scenes as they are: uint8 (side, side, 3) each, square and of equal size."""
    count, side = len(scenes), len(scenes[0])
    index = torch.arange(count, device=device)
    corner = torch.zeros(count, dtype=torch.int64, device=device)
    boxes = CropBoxes(index, corner, corner, torch.full((count,), float(side)))
    return PatchBatch(
        PatchStore(scenes, device=device), boxes, side, torch.zeros(3, count, dtype=torch.bool, device=device)
    )


def correlation(a, b):
    return torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1].item()
