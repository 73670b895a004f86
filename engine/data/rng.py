"""Where random numbers come from: generators named by whole numbers, so that nothing has to be kept."""

import numpy as np
import torch


def seeded(*numbers: int) -> torch.Generator:
    """A generator on the CPU for these whole numbers; any other numbers give another.

    torch's generator looks at a seed's lower 32 bits alone, and seeds side by side may be alike: the numbers are
    mixed first. Source: O'Neill's seed sequences, as numpy has them.
    """
    # Words of 32 bits, two for each number and their count before them: or (2**32,) would be (0, 1).
    words = [len(numbers), *(word for n in numbers for word in (n % 2**32, (n >> 32) % 2**32))]
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def generator_on(device: torch.device, rng: torch.Generator) -> torch.Generator:
    """A generator for tensors of that device that goes on from rng: rng itself, or one that it seeds.

    So rng alone decides what is drawn, and a GPU draws by itself, without being waited for.
    """
    if rng.device.type == device.type:
        return rng
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=rng)))
