"""Synthetic scenes as microscopes and telescopes record them: spots, filaments, stars, and mixtures of them.

Most photographs, and dead leaves, have sharp edges and textures everywhere. A network that has seen nothing else
draws texture on smooth nuclei and leaves noise beside stars.
"""

import math

import torch
from torch import Tensor

from engine.data.dead_leaves import check_size
from engine.data.rng import log_uniform, uniform

# Share of the images whose three channels are different scenes, as in composites of several stains.
COLOUR_SHARE = 0.25
# Share of the images that are dark on bright, as under transmitted light.
INVERTED_SHARE = 0.15
# Spots without an edge: how many, and their standard deviation in pixels.
SPOTS = (8, 300)
SPOT_SIGMA = (0.8, 20.0)
# Bodies with an edge, such as nuclei: how many, their radius and the width of the edge, in pixels.
BODIES = (3, 40)
BODY_RADIUS = (3.0, 45.0)
EDGE_WIDTH = (0.4, 6.0)
# Standard deviation of a body's texture, as a part of its brightness: the largest.
MAX_TEXTURE = 0.25
# Frequencies, in cycles a pixel, beyond which the power of a texture falls: the lowest of all, and the highest of
# bodies and of nebulae. Finer ones would look like noise.
COARSEST = 1 / 128
FINEST_TEXTURE = 1 / 12
FINEST_NEBULA = 1 / 40
# Curved lines: how many, their width (full width at half maximum) and the step between drawn points, in pixels.
FILAMENTS = (3, 40)
FILAMENT_WIDTH = (1.0, 4.0)
FILAMENT_STEP = 0.5
# Full width at half maximum of a Gaussian, in standard deviations.
FULL_WIDTH = 2.3548
# Stars: how many, their standard deviation in pixels, and the exponent of their brightness' density.
STARS = (10, 400)
STAR_SIGMA = (0.7, 2.5)
STAR_EXPONENT = (1.5, 2.5)
# The halo about a star's core: its width in that of the core, and its part of the height.
HALO_WIDTH = 2.2
MAX_HALO = 0.15
# Of the brightest point, in parts of the ground.
STAR_CONTRAST = (3.0, 1000.0)
CONTRAST = (1.5, 300.0)


def measured_scene(height: int, width: int, rng: torch.Generator) -> Tensor:
    """Spots, filaments or stars on an even or sloping ground; the same for the same state of rng.

    float32 (height, width, 3) on 0-255, not rounded: 256 levels are too few for smooth shapes on a dark ground.
    Raises ValueError for an empty size.
    """
    check_size(height, width)
    if _chance(rng) < COLOUR_SHARE:
        channels = [_grey_scene(height, width, rng) for _ in range(3)]
    else:
        channels = [_grey_scene(height, width, rng)] * 3
    return torch.stack(channels, 2) * 255


def _grey_scene(height: int, width: int, rng: torch.Generator) -> Tensor:
    """(height, width) on [0, 1]."""
    kind = _chance(rng)
    if kind < 0.3:
        return _with_stars(height, width, rng)
    if kind < 0.5:
        made = _bodies(height, width, rng)
    elif kind < 0.65:
        made = _spots(height, width, rng)
    elif kind < 0.8:
        made = _filaments(height, width, rng)
    else:
        made = _mixture(height, width, rng)
    ground = log_uniform(*CONTRAST, (), rng).reciprocal() * _slope(height, width, rng)
    scene = ground + (1 - ground.amax()) * made / made.amax().clamp(min=1e-6)
    return 1 - scene if _chance(rng) < INVERTED_SHARE else scene


def _mixture(height: int, width: int, rng: torch.Generator) -> Tensor:
    """Two or three kinds in one image."""
    kinds = (_bodies, _spots, _filaments)
    made = torch.zeros(height, width)
    for index in torch.randperm(len(kinds), generator=rng)[: 2 + int(_chance(rng) < 0.5)].tolist():
        layer = kinds[index](height, width, rng)
        made += log_uniform(0.2, 1, (), rng) * layer / layer.amax().clamp(min=1e-6)
    return made


def _bodies(height: int, width: int, rng: torch.Generator) -> Tensor:
    """Soft-edged discs, stretched and wavy, with a texture of low contrast. Where two overlap they add up."""
    count = _count(BODIES, height, width, rng)
    y, x = torch.arange(height).view(1, -1, 1), torch.arange(width)
    # The bodies of one image have similar sizes, edges and textures.
    radius = _similar(BODY_RADIUS, count, rng)
    edge = torch.minimum(_similar(EDGE_WIDTH, count, rng), radius / 2)
    row, col = _positions(count, height, width, rng)
    stretch, angle = 2 ** uniform(-0.6, 0.6, (count, 1, 1), rng), uniform(0, math.pi, (count, 1, 1), rng)
    dy, dx = y - row, x - col
    u = (angle.cos() * dx + angle.sin() * dy) * stretch
    v = (angle.cos() * dy - angle.sin() * dx) / stretch
    wave = torch.atan2(v, u)
    outline = torch.ones(())
    for waves in (2, 3, 5):
        phase, strength = uniform(0, 2 * math.pi, (count, 1, 1), rng), uniform(0, 0.3 / waves, (count, 1, 1), rng)
        outline = outline + strength * (waves * wave + phase).cos()
    inside = torch.sigmoid((radius * outline - (u.square() + v.square()).sqrt()) / (edge / 2))
    # Flat as a disc or round as a ball.
    ball = uniform(0, 1, (), rng) * (1 - (u.square() + v.square()) / radius.square()).clamp(min=0).sqrt()
    brightness = uniform(0.15, 1, (count, 1, 1), rng)
    texture = 1 + uniform(0, MAX_TEXTURE, (), rng) * _clouds(height, width, FINEST_TEXTURE, rng)
    return (inside * brightness * (0.5 + ball)).sum(0) * texture.clamp(min=0.1)


def _spots(height: int, width: int, rng: torch.Generator) -> Tensor:
    """Round spots without an edge."""
    count = _count(SPOTS, height, width, rng)
    sigma = _similar(SPOT_SIGMA, count, rng).view(-1)
    row, col = (part.view(-1) for part in _positions(count, height, width, rng))
    return _gaussians(height, width, row, col, sigma, uniform(0.1, 1, (count,), rng))


def _filaments(height: int, width: int, rng: torch.Generator) -> Tensor:
    """Curved lines, with a brightness that changes along each line; networks where there are many."""
    count = _count(FILAMENTS, height, width, rng)
    points = math.ceil(2 * max(height, width) / FILAMENT_STEP)
    sigma = (_similar(FILAMENT_WIDTH, count, rng) / FULL_WIDTH).view(-1, 1)
    row, col = (part.view(-1, 1) for part in _positions(count, height, width, rng))
    bend = log_uniform(0.01, 0.25, (), rng)
    curvature = bend * torch.randn((count, points), generator=rng) * math.sqrt(FILAMENT_STEP)
    direction = uniform(0, 2 * math.pi, (count, 1), rng) + curvature.cumsum(1)
    rows = row + FILAMENT_STEP * direction.sin().cumsum(1)
    cols = col + FILAMENT_STEP * direction.cos().cumsum(1)
    length = (points * uniform(0.1, 1, (count, 1), rng)).ceil()
    along = torch.arange(points)
    phase, waves = uniform(0, 2 * math.pi, (count, 1), rng), uniform(0.5, 8, (count, 1), rng)
    change = 1 + uniform(0, 0.8, (count, 1), rng) * (2 * math.pi * waves * along / points + phase).sin()
    # Points this close add up to this many times the height of one.
    height_of_line = math.sqrt(2 * math.pi) * sigma / FILAMENT_STEP
    brightness = uniform(0.15, 1, (count, 1), rng) * change / height_of_line * (along < length)
    near = (rows > -8) & (rows < height + 8) & (cols > -8) & (cols < width + 8) & (along < length)
    sigmas = sigma.expand_as(rows)
    return _gaussians(height, width, rows[near], cols[near], sigmas[near], brightness[near])


def _with_stars(height: int, width: int, rng: torch.Generator) -> Tensor:
    """A star field on its ground, sometimes with a nebula. Brightness has a power law."""
    count = _count(STARS, height, width, rng)
    row, col = (part.view(-1) for part in _positions(count, height, width, rng))
    sigma = log_uniform(*STAR_SIGMA, (), rng).expand(count)
    exponent = uniform(*STAR_EXPONENT, (), rng)
    contrast = log_uniform(*STAR_CONTRAST, (), rng)
    # Densities of f^-exponent between the faintest star and the brightest, which is 1.
    faintest = (0.1 / contrast).clamp(max=0.1)
    power = 1 - exponent
    height_of_star = (faintest**power + torch.rand(count, generator=rng) * (1 - faintest**power)) ** (1 / power)
    stars = _gaussians(height, width, row, col, sigma, height_of_star)
    stars += uniform(0, MAX_HALO, (), rng) * _gaussians(
        height, width, row, col, HALO_WIDTH * sigma, height_of_star
    )
    ground = _slope(height, width, rng)
    if _chance(rng) < 0.4:
        ground = ground * (log_uniform(0.2, 1.2, (), rng) * _clouds(height, width, FINEST_NEBULA, rng)).exp()
    scene = stars / stars.amax().clamp(min=1e-6) + ground / contrast
    return scene / scene.amax()


def _slope(height: int, width: int, rng: torch.Generator) -> Tensor:
    """(height, width) about 1: an even ground, or one that rises in some direction. At least 0.3."""
    steep = uniform(-0.5, 0.5, (2,), rng) * float(_chance(rng) < 0.6)
    y, x = torch.linspace(-1, 1, height).view(-1, 1), torch.linspace(-1, 1, width)
    return (1 + steep[0] * y + steep[1] * x).clamp(min=0.3)


def _clouds(height: int, width: int, finest: float, rng: torch.Generator) -> Tensor:
    """(height, width) of mean 0 and variance 1: noise without frequencies far above `finest`."""
    fy, fx = torch.fft.fftfreq(height).view(-1, 1), torch.fft.rfftfreq(width)
    frequency = (fy.square() + fx.square()).sqrt()
    corner = log_uniform(COARSEST, finest, (), rng)
    response = (1 + (frequency / corner).square()).pow(-uniform(1, 2, (), rng))
    response[0, 0] = 0
    white = torch.randn((height, width), generator=rng)
    noise: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * response, s=(height, width))
    return noise.div(noise.square().mean().sqrt().clamp(min=1e-6))


def _gaussians(height: int, width: int, row: Tensor, col: Tensor, sigma: Tensor, brightness: Tensor) -> Tensor:
    """(height, width): the sum of round Gaussians, all (N,). It is a product of matrices, as they separate."""
    scale = -0.5 / sigma.square()
    down = (scale * (torch.arange(height).view(-1, 1) - row).square()).exp()
    right = (scale * (torch.arange(width).view(-1, 1) - col).square()).exp()
    return (down * brightness) @ right.T


def _positions(count: int, height: int, width: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows and columns, each (count, 1, 1), in half of the images in a few clusters."""
    place = torch.rand((2, count, 1, 1), generator=rng)
    if _chance(rng) < 0.3:
        centres = torch.rand((2, 6, 1, 1), generator=rng)
        member = torch.randint(6, (count,), generator=rng)
        place = centres[:, member] + 0.1 * torch.randn((2, count, 1, 1), generator=rng)
    return place[0] * height, place[1] * width


def _count(limits: tuple[int, int], height: int, width: int, rng: torch.Generator) -> int:
    """How many, drawn evenly on a logarithmic scale for 256 x 256 pixels."""
    low, high = limits
    return max(1, round(float(log_uniform(low, high, (), rng)) * height * width / 256**2))


def _similar(limits: tuple[float, float], count: int, rng: torch.Generator) -> Tensor:
    """(count, 1, 1): sizes within the limits, similar to one that is drawn for the image."""
    low, high = limits
    middle, spread = log_uniform(low, high, (), rng), uniform(0, 0.8, (), rng)
    return (middle * (spread * torch.randn((count, 1, 1), generator=rng)).exp()).clamp(low, high)


def _chance(rng: torch.Generator) -> float:
    return float(torch.rand((), generator=rng))
