"""Sanity check for newly loaded weights: a network must denoise a small image before it serves any."""

import torch

from engine.data.dead_leaves import dead_leaves
from engine.inference.denoise import denoise_image
from engine.layers import Module, drop_packed_weights

# Of the check image, in pixels.
SIDE = 64
# Of its noise, for pixels on [0, 1].
SIGMA = 25 / 255


def check_network(net: Module) -> None:
    """Denoise a small noisy image. Raises ValueError if the result is not an image.

    The result must be nearer to the clean image than a black or a white image is. The test is weak on purpose: a
    network with little training, or for another kind of noise, may keep this noise and still be what its owner
    wants to serve. It fails weights of a diverged training, and values that overflow. Packed weights are freed
    afterwards, since the first request may come much later.
    """
    rng = torch.Generator().manual_seed(0)
    clean = dead_leaves(SIDE, SIDE, rng).float() / 255
    noisy = clean + SIGMA * torch.randn(clean.shape, generator=rng)
    result = denoise_image(net, noisy)
    drop_packed_weights(net)
    if not result.isfinite().all():
        raise ValueError("unusable weights: denoising a check image gave values that are not finite numbers")
    error = (result - clean).square().mean()
    if error >= min((shade - clean).square().mean() for shade in (0.0, 1.0)):
        raise ValueError(
            "unusable weights: the denoised check image is further from the clean one than a black or a white "
            f"image is; its values are from {result.min():.3g} to {result.max():.3g}, with a root mean square "
            f"error of {error.sqrt():.3g}"
        )
