"""Noise that cameras make: in raw light, in the JPEG that comes out of them, and mixed as people send it.

As in `noise.py`, everything is drawn on the scenes' device and no number of a tensor is looked at; only how many
scenes of a batch get which kind of noise is decided on the CPU, so that no kind's arithmetic is done in vain.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from engine.data.noise.gaussian import white_noise
from engine.data.noise.jpeg import TO_RGB, matrix, through_jpeg
from engine.data.noise.model import (
    Shots,
    Views,
    by_place,
    grey_scenes,
    greyed,
    paired,
    parts,
    planner,
    round_to_8_bits,
)
from engine.data.patch_store import PatchBatch
from engine.imageio.image import LUMA

# Standard deviations of luma's noise, 0-255 scale, evenly on a logarithmic scale; one scene in ten has less.
QUIETEST, LOUDEST, NEARLY_CLEAN = 1.0, 25.0, 0.1
# Of a camera's JPEG noise: blurs in pixels; chroma's level beside luma's; a part of the variance far slower.
LUMA_BLUR, CHROMA_BLUR, CHROMA_LEVEL = (0.35, 1.0), (0.7, 3.0), (0.2, 0.9)
SLOW_BLUR, SLOW_LUMA, SLOW_CHROMA, SLOW_SCENES = (3.0, 7.0), 0.25, 0.6, 0.75
# The level grows by this power of e, or falls, from black to white.
SLOPE = 1.5
# Noise with a level for each channel, beside that with luma and chroma.
CHANNEL_SHARE, CHANNEL_LEVEL, CHANNEL_BLUR = 0.125, (0.4, 1.6), (0.0, 1.2)
# Quality of JPEG files; most are near the best. Half of them have chroma of half the size.
COARSEST, FINEST, HALVED = 60, 98, 0.5
# Raw channels to linear sRGB, of four cameras, row by row: from the matrices in Brooks et al. 2019.
CAMERAS_TO_RGB = (
    (1.26, -0.46, 0.20, -0.15, 1.13, 0.02, -0.01, -0.36, 1.37),
    (2.12, -0.97, -0.15, -0.13, 1.59, -0.46, 0.05, -0.44, 1.39),
    (1.71, -0.53, -0.18, -0.29, 1.82, -0.53, 0.03, -0.49, 1.46),
    (1.63, -0.44, -0.19, -0.18, 1.50, -0.32, 0.04, -0.43, 1.39),
)
# What demosaicing leaves of each channel's variance, mean over pixels: they are means of one, two or four.
DEMOSAICED = (9 / 16, 5 / 8, 9 / 16)
# A soft scene is magnified by 1 to this, evenly on a logarithmic scale, each pixel blurred by so many of its own.
MAGNIFIED, PIXEL_BLUR = 3.0, (0.4, 0.8)
IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


@dataclass(frozen=True)
class CameraNoise:
    """What people send: cameras' JPEG noise for the most part, raw noise developed, and white noise.

    low, high: standard deviation of the white noise, 0-255 scale. target_views, grey: as in GaussianNoise. white,
    raw: shares of scenes; all others have a camera's JPEG noise. jpeg: share of inputs, but for those with white
    noise, that are JPEG files; rounded: share of all other inputs that are clipped and rounded to 8 bits. soft:
    share of scenes as soft as a camera's image at full size: see `softened`.
    """

    low: float = 0.0
    high: float = 55.0
    target_views: int = 1
    grey: float = 0.1
    rounded: float = 0.75
    jpeg: float = 0.6
    white: float = 0.25
    raw: float = 0.125
    soft: float = 0.0

    largest_scale = 1

    def draw_scales(self, count: int, rng: torch.Generator) -> list[int]:
        """Views are as large as their scenes."""
        return [1] * count

    def views(self, scenes: PatchBatch, scale: int, rng: torch.Generator) -> Views:
        """Each kind of noise on a part of the scenes."""
        clean, plan = self.clean(scenes, scale), planner(rng)
        channel = CHANNEL_SHARE * (1 - self.white - self.raw)
        white, raw, channels, rest = parts(len(clean), (self.white, self.raw, channel), plan)
        kinds: tuple[tuple[slice, Callable[[Tensor], Shots], float], ...] = (
            (white, lambda part: white_noise(part, self.low, self.high, rng), 0.0),
            (raw, lambda part: raw_noise(part, rng), self.jpeg),
            (channels, lambda part: channel_noise(part, rng), self.jpeg),
            (rest, lambda part: processed_noise(part, rng), self.jpeg),
        )
        drawn = [(kind(clean[part]), part, share) for part, kind, share in kinds if part.start < part.stop]
        shots = Shots(*(torch.cat(same) for same in zip(*(shots for shots, _, _ in drawn), strict=True)))
        views = paired(clean, shots, self.target_views, grey_scenes(scenes, self.grey))
        for _, part, share in drawn:
            send(views.noisy[part], share, self.rounded, plan, rng)
        return views

    def clean(self, scenes: PatchBatch, scale: int) -> Tensor:
        """The scenes themselves, some soft, some without their colour."""
        return greyed(softened(scenes, self.soft), grey_scenes(scenes, self.grey))


def softened(scenes: PatchBatch, share: float) -> Tensor:
    """Scenes (N, side, side, 3), a share of them as soft as a camera's image at full size.

    Lens and demosaicing leave little at the scale of a pixel. Photos that were scaled down, as those trained on,
    are all fine detail instead, and from them alone a network learns to take soft noise for it: in the clean
    images of PolyU differences over two pixels have 3.1 times the power of those over one, in crops of scaled
    down photos 2.3 times (medians), and their strength is a sixth.
    """
    clean = scenes.whole()
    if not share:
        return clean
    chance, blur, place = (by_place(scenes, prime) for prime in (997, 991, 983))
    soft = chance < share
    zoom = torch.where(soft, MAGNIFIED ** (chance / share), 1.0)
    low, high = PIXEL_BLUR
    return torch.where(soft.view(-1, 1, 1, 1), magnified(clean, zoom, low + (high - low) * blur, place), clean)


def magnified(clean: Tensor, zoom: Tensor, blur: Tensor, place: Tensor) -> Tensor:
    """A part of each scene (N, side, side, C), made as large as the whole; all others are (N,).

    zoom: by how much, at least 1. blur: standard deviation of the Gaussian that interpolates, in scene pixels.
    place: where the part lies, down and right, 0 at the top left and 1 at the bottom right.
    """
    count, side = clean.shape[:2]
    order = torch.arange(side, device=clean.device)
    centre = (order[:, None] + 0.5) / zoom[:, None, None] + (side * (1 - 1 / zoom) * place)[:, None, None] - 0.5
    weight = (-0.5 * ((order - centre) / blur[:, None, None]).square()).exp_()
    weight /= weight.sum(2, keepdim=True)
    rows = (weight @ clean.flatten(2)).view_as(clean).transpose(1, 2)
    return (weight @ rows.reshape(count, side, -1)).view_as(clean).transpose(1, 2).contiguous()


def processed_noise(clean: Tensor, rng: torch.Generator) -> Shots:
    """A camera's JPEG noise: made in luma and chroma apart, each blurred, as a camera's own denoising leaves it.

    Ranges: measured on cameras' images; see DESIGN, "what arrives over HTTP". Colours: BT.601, full range.
    """
    count = len(clean)
    luma = _luma_levels(count, rng)
    chroma = luma * _even(*CHROMA_LEVEL, (count, 2), rng)
    blur = torch.cat((_even(*LUMA_BLUR, (count, 1), rng), _even(*CHROMA_BLUR, (count, 1), rng).expand(-1, 2)), 1)
    part = _even(0, 1, (count, 2), rng) * (_even(0, 1, (count, 1), rng) < SLOW_SCENES)
    slow = torch.cat((part[:, :1] * SLOW_LUMA, part[:, 1:].expand(-1, 2) * SLOW_CHROMA), 1)
    return _correlated(clean, torch.cat((luma, chroma), 1), blur, slow, TO_RGB, rng)


def channel_noise(clean: Tensor, rng: torch.Generator) -> Shots:
    """Red, green and blue each with noise of a level of its own, blurred alike or not at all."""
    count = len(clean)
    level = _luma_levels(count, rng) * _even(*CHANNEL_LEVEL, (count, 3), rng)
    blur = _even(*CHANNEL_BLUR, (count, 1), rng).expand(-1, 3)
    return _correlated(clean, level, blur, torch.zeros_like(level), IDENTITY, rng)


def _luma_levels(count: int, rng: torch.Generator) -> Tensor:
    """Standard deviations (N, 1) on [0, 1]."""
    low, part = _even(0, 1, (2, count, 1), rng)
    usual = QUIETEST * (LOUDEST / QUIETEST) ** part
    return torch.where(low < NEARLY_CLEAN, QUIETEST * part, usual) / 255


def _correlated(
    clean: Tensor,
    level: Tensor,
    blur: Tensor,
    slow: Tensor,
    to_rgb: tuple[tuple[float, ...], ...],
    rng: torch.Generator,
) -> Shots:
    """Noise of three planes, brought to RGB. level, blur (pixels), slow part of the variance: (N, 3) each.

    Its level rises or falls with the clean image's brightness.
    """
    count, side = clean.shape[:2]
    far = _even(*SLOW_BLUR, (count, 1), rng).expand(-1, 3)
    slow, variance = slow[..., None, None], level.square()[..., None, None]
    power = blurred_power(side, blur) * (variance * (1 - slow)) + blurred_power(side, far) * (variance * slow)
    mix = matrix(to_rgb, clean.device)
    slope = _even(-SLOPE, SLOPE, (count, 1, 1, 1), rng)
    gain = ((clean @ matrix((LUMA,), clean.device).T - 0.5) * slope).exp_()
    first, second = ((plane.permute(0, 2, 3, 1) @ mix.T).mul_(gain) for plane in shaped_noise(power, rng))
    mean_square = level.square() @ mix.square().T * gain.square().mean((1, 2))
    return Shots(first.add_(clean), second, mean_square)


def blurred_power(side: int, blur: Tensor) -> Tensor:
    """Power spectra (..., side, side), of mean 1, of white noise after a Gaussian blur (...), in pixels."""
    frequency = torch.fft.fftfreq(side, device=blur.device)
    line: Tensor = (2 * math.pi * blur[..., None] * frequency).square().neg().exp()
    line = line / line.mean(-1, keepdim=True)
    return line[..., :, None] * line[..., None, :]


def shaped_noise(power: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two independent fields of Gaussian noise with power spectra (..., H, W), whose mean is their variance.

    White noise of complex numbers is white in the frequencies as well: it is drawn there. A spectrum that is the
    same for a frequency and its opposite shapes real and imaginary part alike, and keeps them apart: one
    transform gives both fields. They go on beyond a border at the opposite one.
    """
    white = torch.view_as_complex(torch.randn((*power.shape, 2), generator=rng, device=power.device))
    field = torch.fft.ifft2(white.mul_(power.sqrt()), norm="ortho")
    return field.real, field.imag


def send(noisy: Tensor, as_jpeg: float, rounded: float, plan: torch.Generator, rng: torch.Generator) -> None:
    """In place: what senders' files do to inputs: shares of them go through JPEG, or are rounded to 8 bits.

    rounded: of those that are no JPEG. plan: on the CPU. rng: on the inputs' device.
    """
    halved, full, whole, _ = parts(
        len(noisy), (as_jpeg * HALVED, as_jpeg * (1 - HALVED), (1 - as_jpeg) * rounded), plan
    )
    for part, half in ((halved, True), (full, False)):
        if part.start == part.stop:
            continue
        # A whole image's blocks begin at its corner; those of an image that was cut begin anywhere.
        cut, top, left = torch.randint(16, (3,), generator=plan).tolist()
        shift = (top, left) if cut < 8 else (0, 0)
        quality = FINEST - (FINEST - COARSEST) * _even(0, 1, (part.stop - part.start,), rng).square()
        noisy[part] = through_jpeg(noisy[part], quality.round(), half, shift)
    round_to_8_bits(noisy[whole])


class Camera(NamedTuple):
    """From light to an image, for each of N cameras. Light is on [0, 1], of raw channels after white balance.

    shot, read (N, 3): a raw channel's noise has the variance shot · light + read. to_rgb (N, 3, 3): from raw
    channels to linear sRGB, rows' sums being 1. gamma (N,): the exponent's inverse. toned (N,): whether a curve
    with more contrast follows.
    """

    shot: Tensor
    read: Tensor
    to_rgb: Tensor
    gamma: Tensor
    toned: Tensor

    def develop(self, linear: Tensor) -> Tensor:
        """Linear sRGB (N, H, W, 3) of any value -> an image on [0, 1]."""
        gamma, toned = self.gamma.view(-1, 1, 1, 1), self.toned.view(-1, 1, 1, 1)
        image = linear.clamp(0, 1).pow_(1 / gamma)
        return torch.where(toned, (3 - 2 * image) * image.square(), image)

    def undevelop(self, image: Tensor) -> Tensor:
        """An image on [0, 1] -> linear sRGB: undoes `develop`."""
        gamma, toned = self.gamma.view(-1, 1, 1, 1), self.toned.view(-1, 1, 1, 1)
        # Sums of channels and the curve itself may, by rounding, end a little outside.
        curve = 0.5 - ((1 - 2 * image).clamp_(-1, 1).asin_() / 3).sin_()
        return torch.where(toned, curve, image).clamp_(0, 1).pow_(gamma)

    def variance(self, linear: Tensor) -> Tensor:
        """Of the noise of each raw pixel and channel (N, H, W, 3), under a linear sRGB image."""
        light = (linear.flatten(1, 2) @ inverse(self.to_rgb).mT).clamp_(min=0)
        return (light * self.shot[:, None] + self.read[:, None]).view_as(linear)


def draw_cameras(count: int, rng: torch.Generator) -> Camera:
    """Half of them phones, half larger cameras.

    Sources: phones' noise, gains and matrices, Brooks et al., "Unprocessing images for learned raw denoising",
    CVPR 2019 (noise as in Plötz & Roth, "Benchmarking denoising algorithms with real photographs", CVPR 2017);
    larger cameras' noise, the profiles of 374 of them in darktable, already after white balance.
    """
    phone_shot, phone_read = _shot_and_read((1e-4, 1.2e-2), (2.18, 1.2, 0.26), (count, 1), rng)
    ones = torch.ones(count, device=rng.device)
    gain = torch.stack((_even(1.9, 2.4, (count,), rng), ones, _even(1.5, 1.9, (count,), rng)), 1)
    # Exposure is made up for by a gain, too.
    gain = gain / (0.8 + 0.1 * torch.randn((count, 1), generator=rng, device=rng.device)).clamp_(0.5, 1.1)
    other_shot, _ = _shot_and_read((1.8e-5, 7.7e-4), (1.24, -3.2, 0.0), (count, 1), rng)
    other_shot = other_shot * matrix(((2.2, 1.0, 1.85),), rng.device)
    other_read = _read(other_shot, (1.24, -3.2, 1.1), (count, 1), rng)
    is_phone = _even(0, 1, (count, 1), rng) < 0.5
    blend = _even(0, 1, (count, len(CAMERAS_TO_RGB)), rng)
    to_rgb = (blend / blend.sum(1, keepdim=True)) @ matrix(CAMERAS_TO_RGB, rng.device)
    return Camera(
        torch.where(is_phone, phone_shot * gain, other_shot),
        torch.where(is_phone, phone_read * gain.square(), other_read),
        to_rgb.view(-1, 3, 3),
        _even(2.0, 2.4, (count,), rng),
        _even(0, 1, (count,), rng) < 0.5,
    )


def raw_noise(clean: Tensor, rng: torch.Generator) -> Shots:
    """Shot and read noise of a camera's raw pixels, taken through the rest of the camera.

    Only the noise is demosaiced: to do so with the clean image would blur it, and the network would learn to
    undo that as well. The input ends as a camera's image does, clipped. The curves make its mean another than
    the clean image's, so the other shot's noise does not take that way: it is white, has mean zero, and is as
    strong in each pixel as the clean image and the camera make it.
    """
    camera = draw_cameras(len(clean), rng)
    linear = camera.undevelop(clean)
    variance = camera.variance(linear)
    raw = variance.sqrt() * torch.randn((*clean.shape[:3], 1), generator=rng, device=clean.device)
    noise = demosaic(raw, torch.randint(2, (2, len(clean)), generator=rng, device=clean.device))
    noisy = camera.develop(linear + (noise.flatten(1, 2) @ camera.to_rgb.mT).view_as(clean))
    variance = (variance * matrix((DEMOSAICED,), clean.device)).flatten(1, 2) @ camera.to_rgb.square().mT
    spread = variance.sqrt_().view_as(clean)
    # The slope of the curve over the noise's own width: at black it has no end.
    level = (camera.develop(linear + spread) - camera.develop(linear - spread)).div_(2)
    other = torch.randn(clean.shape, generator=rng, device=clean.device)
    return Shots(noisy, other.mul_(level), level.square().mean((1, 2)))


def demosaic(raw: Tensor, corner: Tensor) -> Tensor:
    """Of each pixel of raw (N, H, W, 3) one channel is kept, as on a sensor; the others come from its neighbours.

    corner: the row and the column of the first red pixel, (2, N), 0 or 1. Its row goes on with green; the next is
    green and blue. The channels that a pixel misses are means of the two or four nearest that have them; beyond a
    border those at the opposite one, so that H and W must be even.
    """
    height, width = raw.shape[1:3]
    top, left = corner[..., None]
    row = ((torch.arange(height, device=raw.device) + top) % 2)[:, :, None]
    column = ((torch.arange(width, device=raw.device) + left) % 2)[:, None]
    seen = torch.stack(((1 - row) * (1 - column), (row + column) % 2, row * column), 3)
    red, green, blue = (raw * seen).unbind(3)
    crossed = sum((green.roll(way, axis) for way in (-1, 1) for axis in (1, 2)), 4 * green) / 4
    return torch.stack((_between(red), crossed, _between(blue)), 3)


def _between(plane: Tensor) -> Tensor:
    """Every other row and column of a plane is known, the rest zero: what lies between becomes the means."""
    for axis in (1, 2):
        plane = plane + (plane.roll(1, axis) + plane.roll(-1, axis)) / 2
    return plane


def inverse(matrices: Tensor) -> Tensor:
    """Of matrices (N, 3, 3), by Cramer's rule: a library's would make a GPU wait for its check."""
    rows = matrices.unbind(1)
    columns = torch.stack([torch.linalg.cross(rows[i - 2], rows[i - 1]) for i in range(3)], 2)
    return columns / (rows[0] * columns[..., 0]).sum(1).view(-1, 1, 1)


def _shot_and_read(
    limits: tuple[float, float], law: tuple[float, float, float], shape: tuple[int, ...], rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Variances of noise: shot, evenly on a logarithmic scale, and read by its law."""
    shot = _even(math.log(limits[0]), math.log(limits[1]), shape, rng).exp_()
    return shot, _read(shot, law, shape, rng)


def _read(shot: Tensor, law: tuple[float, float, float], shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """log read = slope · log shot + offset ± deviation, natural logarithms."""
    slope, offset, deviation = law
    wander = torch.randn(shape, generator=rng, device=rng.device)
    return (slope * shot.log() + offset + deviation * wander).exp_()


def _even(low: float, high: float, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Numbers drawn evenly between the limits, on rng's device."""
    return low + (high - low) * torch.rand(shape, generator=rng, device=rng.device)
