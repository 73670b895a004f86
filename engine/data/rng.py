"""Random generators made from whole numbers, so that a run stores no generator state."""

import math

import numpy as np
import torch
from torch import Tensor


def seeded_generator(*numbers: int) -> torch.Generator:
    """A CPU generator seeded by these whole numbers. Different numbers give a different generator.

    torch uses only the lower 32 bits of a seed, and neighbouring seeds may give similar streams, so the numbers
    are mixed first. Source: O'Neill's seed sequences, as implemented in numpy.
    """
    # The count comes first, then two words of 32 bits a number. Without the count, (2**32,) would equal (0, 1).
    words = [len(numbers), *(word for n in numbers for word in (n % 2**32, (n >> 32) % 2**32))]
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def generator_on(device: torch.device, rng: torch.Generator) -> torch.Generator:
    """A generator on the device that continues from rng: rng itself, or a new one seeded by it.

    So rng alone decides what is drawn, and a GPU draws without synchronising with the CPU.
    """
    if rng.device.type == device.type:
        return rng
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=rng)))


def uniform(low: float, high: float, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Uniform random numbers between the limits, on rng's device."""
    return low + (high - low) * torch.rand(shape, generator=rng, device=rng.device)


def log_uniform(low: float, high: float, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Random numbers between the limits, even on a logarithmic scale, on rng's device."""
    return torch.exp(uniform(math.log(low), math.log(high), shape, rng))
