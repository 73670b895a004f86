"""Camera noise: noise of raw pixels, noise in a camera's JPEG files, and the mixture that users upload.

As in `noise.model`, everything is drawn on the scenes' device and nothing is read back. Only the number of scenes
that get each kind of noise is decided on the CPU, so that no kind is computed for scenes that do not use it.
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
    cpu_generator,
    grey_mask,
    make_views,
    position_hash,
    remove_colour,
    round_to_8_bits,
    split_batch,
)
from engine.data.patch_store import PatchBatch
from engine.data.rng import uniform
from engine.imageio.image import LUMA

# Standard deviation of luma's noise, 0-255 scale, drawn evenly on a logarithmic scale between these two.
MIN_LUMA_LEVEL = 1.0
MAX_LUMA_LEVEL = 25.0
# Share of scenes with a level below the minimum.
NEARLY_CLEAN_SHARE = 0.1
# Noise in a camera's JPEG files. Standard deviations of the blurs, in pixels.
LUMA_BLUR = (0.35, 1.0)
CHROMA_BLUR = (0.7, 3.0)
# Chroma's level, as a multiple of luma's.
CHROMA_LEVEL = (0.2, 0.9)
# Standard deviation, in pixels, of the blur of the slow part of the noise.
SLOW_BLUR = (3.0, 7.0)
# Largest share of the variance that is slow, in luma and in chroma.
MAX_SLOW_LUMA = 0.25
MAX_SLOW_CHROMA = 0.6
# Share of scenes with a slow part.
SLOW_SCENE_SHARE = 0.75
# From black to white the level changes by a factor of up to e to this power, up or down.
MAX_LEVEL_SLOPE = 1.5
# Of scenes with a camera's JPEG noise, the share whose channels each have a level of their own.
CHANNEL_SHARE = 0.125
# Their channels' level, as a multiple of the drawn one.
CHANNEL_LEVEL = (0.4, 1.6)
# Their blur, in pixels.
CHANNEL_BLUR = (0.0, 1.2)
# Quality of JPEG files, drawn between these two; most are near the maximum.
MIN_QUALITY = 60
MAX_QUALITY = 98
# Share of JPEG files with chroma at half size (4:2:0).
HALF_CHROMA_SHARE = 0.5
# Raw channels to linear sRGB, for four cameras, row by row: from the matrices in Brooks et al. 2019.
CAMERAS_TO_RGB = (
    (1.26, -0.46, 0.20, -0.15, 1.13, 0.02, -0.01, -0.36, 1.37),
    (2.12, -0.97, -0.15, -0.13, 1.59, -0.46, 0.05, -0.44, 1.39),
    (1.71, -0.53, -0.18, -0.29, 1.82, -0.53, 0.03, -0.49, 1.46),
    (1.63, -0.44, -0.19, -0.18, 1.50, -0.32, 0.04, -0.43, 1.39),
)
# The part of each channel's variance that demosaicing leaves, mean over pixels: they average one, two or four.
DEMOSAICED = (9 / 16, 5 / 8, 9 / 16)
# Largest factor by which a soft scene is magnified; drawn evenly on a logarithmic scale from 1.
MAX_MAGNIFICATION = 3.0
# Standard deviation of the interpolating Gaussian of a soft scene, in pixels before magnification.
INTERPOLATION_BLUR = (0.4, 0.8)
IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


@dataclass(frozen=True)
class CameraNoise:
    """A mixture like that of uploads: mostly noise of cameras' JPEG files, some raw noise, some white noise.

    low, high: standard deviation of the white noise, 0-255 scale. target_views, grey: as in GaussianNoise. white,
    raw: shares of scenes; all others have a camera's JPEG noise. jpeg: share of inputs that become JPEG files,
    not counting those with white noise. rounded: share of all other inputs that are clipped and rounded to 8
    bits. soft: share of scenes as soft as a camera's image at full size: see `soften`.
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
        """Two views of each scene; each kind of noise gets its part of the batch."""
        clean, cpu_rng = self.clean(scenes, scale), cpu_generator(rng)
        channel = CHANNEL_SHARE * (1 - self.white - self.raw)
        white, raw, channels, rest = split_batch(len(clean), (self.white, self.raw, channel), cpu_rng)
        kinds: tuple[tuple[slice, Callable[[Tensor], Shots], float], ...] = (
            (white, lambda part: white_noise(part, self.low, self.high, rng), 0.0),
            (raw, lambda part: raw_noise(part, rng), self.jpeg),
            (channels, lambda part: channel_noise(part, rng), self.jpeg),
            (rest, lambda part: processed_noise(part, rng), self.jpeg),
        )
        drawn = [(kind(clean[part]), part, share) for part, kind, share in kinds if part.start < part.stop]
        shots = Shots(*(torch.cat(same) for same in zip(*(shots for shots, _, _ in drawn), strict=True)))
        views = make_views(clean, shots, self.target_views, grey_mask(scenes, self.grey))
        for _, part, jpeg_share in drawn:
            apply_file_formats(views.noisy[part], jpeg_share, self.rounded, cpu_rng, rng)
        return views

    def clean(self, scenes: PatchBatch, scale: int) -> Tensor:
        """The scenes themselves, some soft, some without their colour.

        A camera has nothing beyond black and white, where measured images that were normalised have their tails.
        """
        return remove_colour(soften(scenes, self.soft).clamp_(0, 1), grey_mask(scenes, self.grey))


def soften(scenes: PatchBatch, share: float) -> Tensor:
    """Scenes (N, side, side, 3), a share of them made as soft as a camera's image at full size.

    Lens and demosaicing leave little at the scale of a pixel. Training photos were scaled down, so they are all
    fine detail instead, and a network that sees nothing else takes soft noise for detail. In the clean images of
    PolyU differences over two pixels have 3.1 times the power of those over one, in crops of scaled down photos
    2.3 times (medians), and their strength is a sixth.
    """
    clean = scenes.read()
    if not share:
        return clean
    number, blur, place = (position_hash(scenes, prime) for prime in (997, 991, 983))
    is_soft = number < share
    zoom = torch.where(is_soft, MAX_MAGNIFICATION ** (number / share), 1.0)
    low, high = INTERPOLATION_BLUR
    return torch.where(is_soft.view(-1, 1, 1, 1), magnify(clean, zoom, low + (high - low) * blur, place), clean)


def magnify(clean: Tensor, zoom: Tensor, blur: Tensor, place: Tensor) -> Tensor:
    """A part of each scene (N, side, side, C), magnified to the whole scene's size; the other arguments are (N,).

    zoom: the factor, at least 1. blur: standard deviation of the Gaussian that interpolates, in scene pixels.
    place: where the part lies, down and right: 0 is the top left, 1 the bottom right.
    """
    count, side = clean.shape[:2]
    order = torch.arange(side, device=clean.device)
    centre = (order[:, None] + 0.5) / zoom[:, None, None] + (side * (1 - 1 / zoom) * place)[:, None, None] - 0.5
    weight = (-0.5 * ((order - centre) / blur[:, None, None]).square()).exp_()
    weight /= weight.sum(2, keepdim=True)
    rows = (weight @ clean.flatten(2)).view_as(clean).transpose(1, 2)
    return (weight @ rows.reshape(count, side, -1)).view_as(clean).transpose(1, 2).contiguous()


def processed_noise(clean: Tensor, rng: torch.Generator) -> Shots:
    """Noise in a camera's JPEG files: separate in luma and chroma, each blurred by the camera's own denoising.

    The ranges were measured on images of cameras. Colours: BT.601, full range.
    """
    count = len(clean)
    luma = _luma_levels(count, rng)
    chroma = luma * uniform(*CHROMA_LEVEL, (count, 2), rng)
    blur = torch.cat(
        (uniform(*LUMA_BLUR, (count, 1), rng), uniform(*CHROMA_BLUR, (count, 1), rng).expand(-1, 2)), 1
    )
    part = uniform(0, 1, (count, 2), rng) * (uniform(0, 1, (count, 1), rng) < SLOW_SCENE_SHARE)
    slow = torch.cat((part[:, :1] * MAX_SLOW_LUMA, part[:, 1:].expand(-1, 2) * MAX_SLOW_CHROMA), 1)
    return _correlated_noise(clean, torch.cat((luma, chroma), 1), blur, slow, TO_RGB, rng)


def channel_noise(clean: Tensor, rng: torch.Generator) -> Shots:
    """Noise of its own level in each of red, green and blue, with one blur or none."""
    count = len(clean)
    level = _luma_levels(count, rng) * uniform(*CHANNEL_LEVEL, (count, 3), rng)
    blur = uniform(*CHANNEL_BLUR, (count, 1), rng).expand(-1, 3)
    return _correlated_noise(clean, level, blur, torch.zeros_like(level), IDENTITY, rng)


def _luma_levels(count: int, rng: torch.Generator) -> Tensor:
    """Standard deviations (N, 1) on [0, 1]."""
    choice, part = uniform(0, 1, (2, count, 1), rng)
    usual = MIN_LUMA_LEVEL * (MAX_LUMA_LEVEL / MIN_LUMA_LEVEL) ** part
    return torch.where(choice < NEARLY_CLEAN_SHARE, MIN_LUMA_LEVEL * part, usual) / 255


def _correlated_noise(
    clean: Tensor,
    level: Tensor,
    blur: Tensor,
    slow: Tensor,
    to_rgb: tuple[tuple[float, ...], ...],
    rng: torch.Generator,
) -> Shots:
    """Noise of three planes, converted to RGB. level, blur (pixels), slow part of the variance: (N, 3) each.

    The level rises or falls with the brightness of the clean image.
    """
    count, side = clean.shape[:2]
    slow_blur = uniform(*SLOW_BLUR, (count, 1), rng).expand(-1, 3)
    slow, variance = slow[..., None, None], level.square()[..., None, None]
    power = blurred_power(side, blur) * (variance * (1 - slow)) + blurred_power(side, slow_blur) * (
        variance * slow
    )
    mix = matrix(to_rgb, clean.device)
    slope = uniform(-MAX_LEVEL_SLOPE, MAX_LEVEL_SLOPE, (count, 1, 1, 1), rng)
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

    Complex white noise is also white in the frequency domain, so it is drawn there. The spectrum is the same for
    a frequency and its opposite, so the real and the imaginary part are both shaped by it and stay independent:
    one transform gives both fields. The fields are periodic.
    """
    white = torch.view_as_complex(torch.randn((*power.shape, 2), generator=rng, device=power.device))
    field = torch.fft.ifft2(white.mul_(power.sqrt()), norm="ortho")
    return field.real, field.imag


def apply_file_formats(
    noisy: Tensor, jpeg_share: float, rounded: float, cpu_rng: torch.Generator, rng: torch.Generator
) -> None:
    """In place: some inputs become JPEG files, some are rounded to 8 bits, the others stay as they are.

    rounded: share of the inputs that do not become JPEG files. rng: on the inputs' device.
    """
    half_share, full_share = jpeg_share * HALF_CHROMA_SHARE, jpeg_share * (1 - HALF_CHROMA_SHARE)
    half, full, to_round, _ = split_batch(
        len(noisy), (half_share, full_share, (1 - jpeg_share) * rounded), cpu_rng
    )
    for part, half_chroma in ((half, True), (full, False)):
        if part.start == part.stop:
            continue
        # The blocks of a whole image begin at its corner, those of a cropped image anywhere.
        cropped, top, left = torch.randint(16, (3,), generator=cpu_rng).tolist()
        shift = (top, left) if cropped < 8 else (0, 0)
        quality = (
            MAX_QUALITY - (MAX_QUALITY - MIN_QUALITY) * uniform(0, 1, (part.stop - part.start,), rng).square()
        )
        noisy[part] = through_jpeg(noisy[part], quality.round(), half_chroma, shift)
    round_to_8_bits(noisy[to_round])


class Camera(NamedTuple):
    """N cameras, each of which develops light to an image. Light is on [0, 1], in white-balanced raw channels.

    shot, read (N, 3): the noise of a raw channel has the variance shot · light + read. to_rgb (N, 3, 3): from raw
    channels to linear sRGB; its rows sum to 1. gamma (N,): the inverse of the exponent. toned (N,): whether a
    curve that adds contrast follows.
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
        # Rounding may put sums of channels, and the curve's result, slightly outside [0, 1].
        curve = 0.5 - ((1 - 2 * image).clamp_(-1, 1).asin_() / 3).sin_()
        return torch.where(toned, curve, image).clamp_(0, 1).pow_(gamma)

    def variance(self, linear: Tensor) -> Tensor:
        """Variance of the noise of each raw pixel and channel (N, H, W, 3), for a linear sRGB image."""
        light = (linear.flatten(1, 2) @ inverse(self.to_rgb).mT).clamp_(min=0)
        return (light * self.shot[:, None] + self.read[:, None]).view_as(linear)


def draw_cameras(count: int, rng: torch.Generator) -> Camera:
    """Random cameras: half of them phones, half larger cameras.

    Sources: phones' noise, gains and matrices, Brooks et al., "Unprocessing images for learned raw denoising",
    CVPR 2019 (noise as in Plötz & Roth, "Benchmarking denoising algorithms with real photographs", CVPR 2017);
    larger cameras' noise, the profiles of 374 of them in darktable, which already include white balance.
    """
    phone_shot, phone_read = _shot_and_read((1e-4, 1.2e-2), (2.18, 1.2, 0.26), (count, 1), rng)
    ones = torch.ones(count, device=rng.device)
    gain = torch.stack((uniform(1.9, 2.4, (count,), rng), ones, uniform(1.5, 1.9, (count,), rng)), 1)
    # Another gain makes up for the exposure.
    gain = gain / (0.8 + 0.1 * torch.randn((count, 1), generator=rng, device=rng.device)).clamp_(0.5, 1.1)
    other_shot, _ = _shot_and_read((1.8e-5, 7.7e-4), (1.24, -3.2, 0.0), (count, 1), rng)
    other_shot = other_shot * matrix(((2.2, 1.0, 1.85),), rng.device)
    other_read = _read_noise(other_shot, (1.24, -3.2, 1.1), (count, 1), rng)
    is_phone = uniform(0, 1, (count, 1), rng) < 0.5
    blend = uniform(0, 1, (count, len(CAMERAS_TO_RGB)), rng)
    to_rgb = (blend / blend.sum(1, keepdim=True)) @ matrix(CAMERAS_TO_RGB, rng.device)
    return Camera(
        torch.where(is_phone, phone_shot * gain, other_shot),
        torch.where(is_phone, phone_read * gain.square(), other_read),
        to_rgb.view(-1, 3, 3),
        uniform(2.0, 2.4, (count,), rng),
        uniform(0, 1, (count,), rng) < 0.5,
    )


def raw_noise(clean: Tensor, rng: torch.Generator) -> Shots:
    """Shot and read noise of a camera's raw pixels, developed to an image.

    Only the noise is demosaiced. Demosaicing the clean image too would blur it, and the network would learn to
    undo the blur. The input is clipped, as a camera's image is. The curves give its noise a mean, so the second
    shot's noise does not go through them: it is white, has mean zero, and has in each pixel the strength that the
    clean image and the camera give.
    """
    camera = draw_cameras(len(clean), rng)
    linear = camera.undevelop(clean)
    variance = camera.variance(linear)
    raw = variance.sqrt() * torch.randn((*clean.shape[:3], 1), generator=rng, device=clean.device)
    noise = demosaic(raw, torch.randint(2, (2, len(clean)), generator=rng, device=clean.device))
    noisy = camera.develop(linear + (noise.flatten(1, 2) @ camera.to_rgb.mT).view_as(clean))
    variance = (variance * matrix((DEMOSAICED,), clean.device)).flatten(1, 2) @ camera.to_rgb.square().mT
    spread = variance.sqrt_().view_as(clean)
    # The slope of the curve over the width of the noise: at black its derivative is infinite.
    level = (camera.develop(linear + spread) - camera.develop(linear - spread)).div_(2)
    other = torch.randn(clean.shape, generator=rng, device=clean.device)
    return Shots(noisy, other.mul_(level), level.square().mean((1, 2)))


def demosaic(raw: Tensor, corner: Tensor) -> Tensor:
    """Keep one channel of each pixel of raw (N, H, W, 3), as a sensor does, and interpolate the other two.

    corner: the row and the column of the first red pixel, (2, N), 0 or 1. Red and green alternate in its row,
    green and blue in the next. A missing channel is the mean of the two or four nearest pixels that have it. The
    image is taken as periodic, so H and W must be even.
    """
    height, width = raw.shape[1:3]
    top, left = corner[..., None]
    row = ((torch.arange(height, device=raw.device) + top) % 2)[:, :, None]
    column = ((torch.arange(width, device=raw.device) + left) % 2)[:, None]
    sampled = torch.stack(((1 - row) * (1 - column), (row + column) % 2, row * column), 3)
    red, green, blue = (raw * sampled).unbind(3)
    green = sum((green.roll(way, axis) for way in (-1, 1) for axis in (1, 2)), 4 * green) / 4
    return torch.stack((_interpolate(red), green, _interpolate(blue)), 3)


def _interpolate(plane: Tensor) -> Tensor:
    """Fill a plane of which every other row and column is known and the rest is zero."""
    for axis in (1, 2):
        plane = plane + (plane.roll(1, axis) + plane.roll(-1, axis)) / 2
    return plane


def inverse(matrices: Tensor) -> Tensor:
    """Inverse of matrices (N, 3, 3) by Cramer's rule: torch's own would synchronise with a GPU to check them."""
    rows = matrices.unbind(1)
    columns = torch.stack([torch.linalg.cross(rows[i - 2], rows[i - 1]) for i in range(3)], 2)
    return columns / (rows[0] * columns[..., 0]).sum(1).view(-1, 1, 1)


def _shot_and_read(
    limits: tuple[float, float], line: tuple[float, float, float], shape: tuple[int, ...], rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Variances of shot noise, drawn evenly on a logarithmic scale, and of the read noise that goes with it."""
    shot = uniform(math.log(limits[0]), math.log(limits[1]), shape, rng).exp_()
    return shot, _read_noise(shot, line, shape, rng)


def _read_noise(
    shot: Tensor, line: tuple[float, float, float], shape: tuple[int, ...], rng: torch.Generator
) -> Tensor:
    """Variance of read noise: log read = slope · log shot + offset ± deviation, in natural logarithms."""
    slope, offset, deviation = line
    scatter = torch.randn(shape, generator=rng, device=rng.device)
    return (slope * shot.log() + offset + deviation * scatter).exp_()
