"""Peak memory of tensors while an action runs."""

from unittest.mock import patch

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from engine.layers import Arena


def peak_bytes(action):
    """Bytes that tensors held at most while the action ran, beyond those that they held before."""
    # The profiler does not see an arena's memory.
    by_torch = patch.object(Arena, "take", lambda _, size: torch.empty(size, dtype=torch.uint8))
    with by_torch, profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        action()
    held = np.cumsum(
        [event.nbytes() for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    )
    return int(held.max())
