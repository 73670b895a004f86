"""Standard errors of a least-squares estimate, from what each block of pixels says when it is left out.

They hold for noise that grows with brightness and for noise that neighbours share, and are large where few blocks
decide, such as those of a few stars.

Sources: Bell, McCaffrey, "Bias reduction in standard errors for linear regression with multi-stage samples",
Survey Methodology 2002 (leaving out blocks); Cornish, Fisher, "Moments and cumulants in the specification of
distributions", Revue de l'Institut international de statistique 1938 (the quantiles of Student's distribution).
"""

import math

import torch
from torch import Tensor

# Errors are made so large that this many of them mean what they mean for a normal distribution.
DEVIATIONS = 4.0


def jackknife_errors(scores: Tensor, normals: Tensor) -> Tensor:
    """(k,): standard errors. scores: (B, k), which sum up to 0. normals: (B, k, k), which sum up to the normal
    matrix.

    Infinite if one block decides alone.
    """
    rest = normals.sum(0) - normals
    solved, failed = torch.linalg.solve_ex(rest, scores.unsqueeze(2))
    changes = solved[..., 0]
    if bool(failed.any()) or not bool(changes.isfinite().all()):
        return torch.full((scores.shape[1],), math.inf, dtype=scores.dtype)
    squares = changes.square()
    errors = squares.sum(0).sqrt()
    # As many blocks as would say the same if all counted equally.
    count = squares.sum(0).square() / squares.square().sum(0).clamp(min=1e-300)
    widened: Tensor = errors * student_factor(count)
    return widened


def student_factor(count: Tensor) -> Tensor:
    """How much farther than the normal quantile at DEVIATIONS that of Student's distribution lies."""
    square = DEVIATIONS**2
    first = (square + 1) / 4
    second = (5 * square**2 + 16 * square + 3) / 96
    third = (3 * square**3 + 19 * square**2 + 17 * square - 15) / 384
    return 1 + first / count + second / count**2 + third / count**3
