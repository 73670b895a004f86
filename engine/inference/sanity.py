"""Whether a network makes an image of an image, before anyone's own is given to it."""

import torch

from engine.data.dead_leaves import dead_leaves
from engine.inference.denoise import denoise_image
from engine.layers import Module, drop_packed_weights

SIDE = 64
SIGMA = 25 / 255


def check(net: Module) -> None:
    """Have the network denoise a small noisy image. Raises ValueError saying how what comes back is no image.

    It has to lie nearer to the clean image than an all-black or an all-white one does. That is little, on
    purpose: a network hardly trained yet, or one for another noise, may not take this noise away, and still be
    what its owner means to serve. A training that blew up does not pass, nor numbers that overflow. Nothing that
    was prepared for it is kept: it may be long until somebody asks for the network.
    """
    rng = torch.Generator().manual_seed(0)
    clean = dead_leaves(SIDE, SIDE, rng).float() / 255
    noisy = clean + SIGMA * torch.randn(clean.shape, generator=rng)
    made = denoise_image(net, noisy)
    drop_packed_weights(net)
    if not made.isfinite().all():
        raise ValueError("the check image comes back with what is no finite number")
    error = (made - clean).square().mean()
    if error >= min((shade - clean).square().mean() for shade in (0.0, 1.0)):
        raise ValueError(
            f"the check image comes back further from the clean one than black or white is: "
            f"from {made.min():.3g} to {made.max():.3g}, off by {error.sqrt():.3g}"
        )
