"""Reader of files that hold recorded pairs as tensors."""

from pathlib import Path

import torch
from torch import Tensor

PAIR_FILES = (".pkl", ".pt")


def read_pair_file(path: Path) -> list[tuple[Tensor, Tensor]]:
    """The pairs of a file that holds (first, second), each uint8 (N, 3, H, W). Returns uint8 (H, W, 3) pairs.

    The seed report's data set has this format.

    Only tensors are unpickled, so a file cannot run code. Raises ValueError naming the file and what it holds.
    """
    try:
        stacks = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Bytes that are not a pickle may make an unpickler raise anything.
        raise ValueError(f"{path}: not a file of tensors alone: {error}") from error
    if not (isinstance(stacks, tuple | list) and len(stacks) == 2 and all(map(_is_stack, stacks))):
        raise ValueError(f"{path}: expected two uint8 tensors (first, second) of N x 3 x H x W")
    if stacks[0].shape != stacks[1].shape:
        raise ValueError(f"{path}: shapes differ, {tuple(stacks[0].shape)} and {tuple(stacks[1].shape)}")
    first, second = (stack.permute(0, 2, 3, 1).contiguous() for stack in stacks)
    return list(zip(first, second, strict=True))


def _is_stack(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.uint8 and value.dim() == 4 and value.shape[1] == 3
