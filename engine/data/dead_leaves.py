"""Dead leaves: synthetic images that share the statistics of photographs.

Opaque leaves of random shape, colour and texture fall on each other until they cover the ground. With radii
drawn from the density r^-3 the image looks alike at every scale. It shares with photographs their spectrum, the
heavy tails of their gradients, and edges at which one object hides another.
Sources: Lee, Mumford & Huang, "Occlusion models for natural images", IJCV 2001; Bordenave, Gousseau & Roueff,
"The dead leaves model", Advances in Applied Probability 2006; Achddou, Gousseau & Ladjal, "Synthetic images as a
regularity prior for image restoration neural networks", SSVM 2021, who train a denoiser on them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.data.rng import uniform

# Images are drawn this many times larger and averaged down, which softens edges as a lens and a sensor do.
OVERSAMPLING = 2
# How many leaves, on average, cover a pixel.
MEAN_COVER = 4.0
# Smallest radius of the leaves, in pixels of the result: drawn for each image between these.
MIN_RADIUS = (1.0, 10.0)
# Largest radius, as a part of the image's shorter side.
MAX_RADIUS_PART = 0.5
# How many different outlines an image has.
OUTLINES = 64
# Directions in which an outline is sampled; a power of two.
ANGLES = 1024
# How many different textures an image has.
TEXTURES = 8
# Side of a texture, in drawn pixels.
TEXTURE_SIDE = 256
# Passes of a two-pixel mean that blur the parts out of focus: sigma is half the root of this.
BLUR_PASSES = 8
# How many pairs of a pixel and a leaf are tested at once: their data fit in a processor's cache.
MAX_PAIRS_AT_ONCE = 2**17


def dead_leaves(height: int, width: int, rng: torch.Generator) -> Tensor:
    """uint8 (height, width, 3), the same for the same state of rng. Raises ValueError for an empty size."""
    check_size(height, width)
    rows, cols = ((side + BLUR_PASSES) * OVERSAMPLING for side in (height, width))
    leaves = drop_leaves(rows, cols, rng, MIN_RADIUS)
    visible = visible_leaves(leaves, rows, cols)
    sharp = downsample(_paint(leaves, visible.view(rows, cols), rng))
    return to_bytes(_focus(sharp, rng))


@dataclass(frozen=True)
class Leaves:
    """The leaves of an image, in the order in which they fall; positions (y, x) are in drawn pixels."""

    centre: Tensor  # (N, 2)
    extent: Tensor  # (N,) largest distance of the edge from the centre
    to_local: Tensor  # (N, 2, 2) from an offset (y, x) to the coordinates of the outline
    outline: Tensor  # (N,) row of `outlines`
    outlines: Tensor  # (OUTLINES, ANGLES) squared distance from the centre to the edge, by angle
    colour: Tensor  # (N, 3)


def drop_leaves(rows: int, cols: int, rng: torch.Generator, min_radius: tuple[float, float]) -> Leaves:
    """Random leaves for an image of rows x cols drawn pixels. min_radius: see MIN_RADIUS."""
    radius = _radii(rows, cols, min_radius, rng)
    count = len(radius)
    stretch = 2 ** uniform(-0.8, 0.8, (count,), rng)
    axes = torch.stack((radius * stretch, radius / stretch), 1)
    outlines = _outlines(rng)
    outline = torch.randint(OUTLINES, (count,), generator=rng)
    extent = axes.amax(1) * outlines.amax(1)[outline]
    # Centres also lie beyond the border, so that the border is covered as often as the middle.
    side = torch.tensor([rows, cols])
    centre = torch.rand((count, 2), generator=rng) * (side + 2 * radius[:, None]) - radius[:, None]
    to_local = rotations(count, rng) / axes[:, :, None]
    return Leaves(centre, extent, to_local, outline, outlines.square(), _colours(centre, rng))


def visible_leaves(leaves: Leaves, rows: int, cols: int) -> Tensor:
    """(rows * cols,): the index of the leaf on top at each pixel. Leaves of similar size are drawn together."""
    # Leaf 0 is the ground, which covers every pixel.
    top = torch.zeros(rows * cols, dtype=torch.int64)
    for members, half in _by_size(leaves.extent, rows * cols):
        nearest = leaves.centre[members].round().long()
        y = _reach(nearest[:, 0], half, rows).unsqueeze(2)
        x = _reach(nearest[:, 1], half, cols).unsqueeze(1)
        on_canvas = ((y >= 0) & (y < rows)) & ((x >= 0) & (x < cols))
        covered = _covers(leaves, members, y, x) & on_canvas
        index = members.view(-1, 1, 1).expand(covered.shape)
        top.scatter_reduce_(0, (y * cols + x)[covered], index[covered], "amax")
    return top


def check_size(height: int, width: int) -> None:
    """Raises ValueError for an empty size."""
    if min(height, width) < 1:
        raise ValueError(f"an image has at least 1 x 1 pixels; got {width} x {height}")


def downsample(image: Tensor) -> Tensor:
    """From drawn pixels (rows, cols, 3) to pixels of the result: means of OVERSAMPLING x OVERSAMPLING."""
    rows, cols = (side // OVERSAMPLING for side in image.shape[:2])
    return image.view(rows, OVERSAMPLING, cols, OVERSAMPLING, 3).mean((1, 3))


def to_bytes(image: Tensor) -> Tensor:
    """From about [0, 1] to uint8."""
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def rotations(count: int, rng: torch.Generator) -> Tensor:
    """Random rotation matrices, (count, 2, 2)."""
    angle = uniform(0, 2 * math.pi, (count,), rng)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((torch.stack((cos, -sin), 1), torch.stack((sin, cos), 1)), 1)


def _radii(rows: int, cols: int, min_radius: tuple[float, float], rng: torch.Generator) -> Tensor:
    """From the density r^-3 between two limits; as many as cover the image `MEAN_COVER` times."""
    low, high = (math.log(radius * OVERSAMPLING) for radius in min_radius)
    least = math.exp(low + (high - low) * float(torch.rand((), generator=rng)))
    most = max(2 * least, MAX_RADIUS_PART * min(rows, cols))
    mean_square = 2 * math.log(most / least) / (least**-2 - most**-2)
    count = math.ceil(MEAN_COVER * rows * cols / (math.pi * mean_square))
    # The share of radii above r is (r^-2 - most^-2) / (least^-2 - most^-2), solved for r.
    radius = (most**-2 + torch.rand(count, generator=rng) * (least**-2 - most**-2)) ** -0.5
    # The first leaf is the ground.
    radius[0] = math.hypot(rows, cols)
    return radius


def _outlines(rng: torch.Generator) -> Tensor:
    """(OUTLINES, ANGLES): the edge's distance at each angle, for discs, rectangles, polygons and wavy blobs.

    Each has the area of the unit disc.
    """
    angle = torch.arange(ANGLES) * (2 * math.pi / ANGLES)
    quarter = OUTLINES // 4
    discs = torch.ones(quarter, ANGLES)
    rectangles = (1 / torch.maximum(angle.cos().abs(), angle.sin().abs())).expand(quarter, -1)
    polygons = torch.stack([_polygon(angle, rng) for _ in range(quarter)])
    wave = torch.arange(2, 9).view(-1, 1)
    phase = uniform(0, 2 * math.pi, (quarter, len(wave), 1), rng)
    strength = torch.randn((quarter, len(wave), 1), generator=rng) * 0.5 / wave
    blobs = (strength * (wave * angle + phase).cos()).sum(1).exp()
    outlines = torch.cat((discs, rectangles, polygons, blobs))
    return outlines / outlines.square().mean(1, keepdim=True).sqrt()


def _polygon(angle: Tensor, rng: torch.Generator) -> Tensor:
    """Three to seven sides in nearly even directions, each at its own distance from the centre."""
    sides = int(torch.randint(3, 8, (), generator=rng))
    direction = (torch.arange(sides) + uniform(-0.15, 0.15, (sides,), rng)) * (2 * math.pi / sides)
    distance = uniform(0.6, 1.0, (sides,), rng)
    return 1 / ((angle - direction[:, None]).cos() / distance[:, None]).amax(0)


def _colours(centre: Tensor, rng: torch.Generator) -> Tensor:
    """(N, 3): neighbouring leaves have similar brightness and hue, as the parts of one object do."""
    count, objects = len(centre), 6
    member = torch.cdist(
        centre + 0.1 * centre.std() * torch.randn((count, 2), generator=rng),
        centre[torch.randint(count, (objects,), generator=rng)],
    ).argmin(1)
    middle = 0.8 * torch.randn(objects, generator=rng)
    spread = uniform(0.2, 1.4, (objects,), rng)
    brightness = torch.sigmoid(middle[member] + spread[member] * torch.randn(count, generator=rng))
    hue = 0.3 * torch.randn((objects, 3), generator=rng)[member] + 0.1 * torch.randn((count, 3), generator=rng)
    saturation = uniform(0.1, 1.0, (), rng)
    tint = (saturation * (hue - hue.mean(1, keepdim=True))).exp()
    return brightness[:, None] * tint / tint.mean(1, keepdim=True)


def _by_size(extent: Tensor, pixels: int) -> Iterator[tuple[Tensor, int]]:
    """Groups of leaves, without the ground, each with the `half` of a square of side 2 half + 1 that holds them.

    A group is small enough to be tested at once. pixels: of the whole image.
    """
    half_octave = (2 * extent.log2()).ceil()
    half_octave[0] = math.inf
    for size in sorted(set(half_octave[1:].tolist())):
        half = math.ceil(2 ** (size / 2)) + 1
        indices = (half_octave == size).nonzero().squeeze(1)
        for members in indices.split(max(1, MAX_PAIRS_AT_ONCE // min(pixels, (2 * half + 1) ** 2))):
            yield members, half


def _reach(centre: Tensor, half: int, side: int) -> Tensor:
    """(N, L): coordinates along one axis that squares about these centres reach, or all, if those are fewer."""
    if 2 * half + 1 >= side:
        return torch.arange(side).expand(len(centre), -1)
    return centre[:, None] + torch.arange(-half, half + 1)


def _covers(leaves: Leaves, members: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Whether the leaf covers the pixel, for each member and each pixel of its square."""
    u, v = _to_local(leaves, members.view(-1, 1, 1), y, x)
    # ANGLES is a power of two: the remainder is its lowest bits.
    angle = (torch.atan2(v, u) * (ANGLES / (2 * math.pi))).to(torch.int64) & (ANGLES - 1)
    return u.square() + v.square() <= leaves.outlines[leaves.outline[members].view(-1, 1, 1), angle]


def _to_local(leaves: Leaves, index: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels in the coordinates of the leaves with these indices."""
    dy, dx = y - leaves.centre[index, 0], x - leaves.centre[index, 1]
    matrix = leaves.to_local
    return (
        matrix[index, 0, 0] * dy + matrix[index, 0, 1] * dx,
        matrix[index, 1, 0] * dy + matrix[index, 1, 1] * dx,
    )


def _paint(leaves: Leaves, visible: Tensor, rng: torch.Generator) -> Tensor:
    """(rows, cols, 3) on [0, 1]: each leaf's colour, shaded from one side to the other, and textured."""
    count = len(leaves.colour)
    y, x = torch.arange(visible.shape[0]).view(-1, 1), torch.arange(visible.shape[1])
    u, v = _to_local(leaves, visible, y, x)
    slope = 0.25 * torch.randn((count, 2), generator=rng)
    shade = 1 + slope[visible, 0] * u + slope[visible, 1] * v
    # Most leaves have little texture, few have much.
    strength = 0.35 * torch.rand(count, generator=rng) ** 3
    direction = 1 + 0.3 * torch.randn((count, 3), generator=rng)
    texture = _texture_field(visible, y, x, count, rng)
    image = leaves.colour[visible] * shade[..., None]
    image += texture[..., None] * ((0.1 + leaves.colour) * strength[:, None] * direction)[visible]
    return image.clamp_(0, 1)


def _texture_field(visible: Tensor, y: Tensor, x: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """(rows, cols): the texture at each pixel. Each leaf has one texture, rotated, scaled and shifted."""
    textures = _textures(rng)
    which = torch.randint(TEXTURES, (count,), generator=rng)
    # At scales below 1 the steps between the texture's pixels would be visible.
    matrix = rotations(count, rng) * 2 ** uniform(0, 2, (count, 1, 1), rng)
    start = torch.randint(TEXTURE_SIDE, (count, 2), generator=rng)
    row, col = (
        (start[visible, axis] + matrix[visible, axis, 0] * y + matrix[visible, axis, 1] * x).long() % TEXTURE_SIDE
        for axis in (0, 1)
    )
    return textures[which[visible], row, col]


def _textures(rng: torch.Generator) -> Tensor:
    """(TEXTURES, side, side), each repeating without a seam, of mean 0 and variance 1.

    The first half is noise of a band of frequencies, stretched in one direction. The second half is stripes that
    the noise bends, sharpened to various degrees.
    """
    side, half = TEXTURE_SIDE, TEXTURES // 2
    fy, fx = torch.fft.fftfreq(side).view(-1, 1), torch.fft.rfftfreq(side)
    stretch = 2 ** uniform(0, 3, (half, 1, 1), rng)
    frequency = (fy.square() + (stretch * fx).square()).sqrt()
    middle = 2 ** uniform(-6, -2, (half, 1, 1), rng)
    # Power laws on both sides of the band: within it the noise has all scales.
    response = 1 / ((frequency / middle) ** 1.5 + (middle / frequency.clamp(min=1 / side)))
    response[:, 0, 0] = 0
    white = torch.randn((half, side, side), generator=rng)
    noise = torch.fft.irfft2(torch.fft.rfft2(white) * response, s=(side, side))
    noise = noise / noise.std((1, 2), keepdim=True)
    waves = torch.randint(4, 48, (half, 1, 1), generator=rng)
    phase = torch.arange(side) * (2 * math.pi / side) * waves
    bend = uniform(0, 2, (half, 1, 1), rng)
    stripes = (2 ** uniform(0, 2, (half, 1, 1), rng) * (phase + bend * noise).sin()).tanh()
    stripes = stripes - stripes.mean((1, 2), keepdim=True)
    return torch.cat((noise, stripes / stripes.std((1, 2), keepdim=True)))


def _focus(sharp: Tensor, rng: torch.Generator) -> Tensor:
    """Blur parts of the image. The result is smaller by BLUR_PASSES a side, so no border is made up."""
    soft = sharp
    for _ in range(BLUR_PASSES):
        soft = (soft[1:] + soft[:-1]) / 2
        soft = (soft[:, 1:] + soft[:, :-1]) / 2
    height, width = soft.shape[:2]
    margin = BLUR_PASSES // 2
    # The focal plane is tilted: one side of the scene is sharp, the other is not.
    tilt = 2 * torch.randn(2, generator=rng)
    start = float(torch.randn((), generator=rng)) + 2
    y, x = torch.linspace(-1, 1, height).view(-1, 1, 1), torch.linspace(-1, 1, width).view(-1, 1)
    share = (start + tilt[0] * y + tilt[1] * x).clamp(0, 1)
    return soft + share * (sharp[margin : margin + height, margin : margin + width] - soft)
