"""Small DNG files with known values, and files that only look like camera raw."""

import io

import numpy as np
import tifffile

BLACK = 512
WHITE = 15871
RGGB = (0, 1, 1, 2)
# Rows of LibRaw's numbers of the colours, for RGGB.
RGGB_PATTERN = ((0, 1), (3, 2))
# XYZ of D65 to a camera whose colours are those of sRGB.
_MATRIX = [3.2404542, -1.5371385, -0.4985314, -0.9692660, 1.8760108, 0.0415560, 0.0556434, -0.2040259, 1.0572252]
# Fujifilm's colour filter array of 6 x 6 pixels.
XTRANS = (
    *(1, 2, 1, 1, 0, 1), *(0, 1, 0, 2, 1, 2), *(1, 2, 1, 1, 0, 1), *(1, 0, 1, 1, 2, 1), *(2, 1, 2, 0, 1, 0),
    *(1, 0, 1, 1, 2, 1),
)  # fmt: skip
CFA = 32803
LINEAR_RAW = 34892


def scene(height=48, width=64, seed=0, noise=60.0):
    """A mosaic (H, W) of smooth waves with noise, from BLACK to WHITE."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = 5000 + 2000 * np.sin(x / 9) + 2000 * np.cos(y / 7)
    return (waves + rng.normal(0, noise, (height, width))).clip(BLACK, WHITE).astype(np.uint16)


def _fractions(values):
    return [part for value in values for part in (round(value * 10_000), 10_000)]


def _raw_tags(pattern, black, white):
    tags = [(50714, "H", 1, black, True), (50717, "H", 1, white, True)]
    if pattern:
        side = round(len(pattern) ** 0.5)
        tags += [(33421, "H", 2, (side, side), True), (33422, "B", len(pattern), bytes(pattern), True)]
        tags += [(50711, "H", 1, 1, True)]
    return tags


def _camera_tags(orientation, neutral, colours):
    tags = [
        (271, "s", 0, "Maker", True),
        (272, "s", 0, "Model", True),
        (274, "H", 1, orientation, True),
        (315, "s", 0, "Artist", True),
        (50706, "B", 4, bytes((1, 4, 0, 0)), True),
        (50707, "B", 4, bytes((1, 1, 0, 0)), True),
        (50708, "s", 0, "Maker Model", True),
    ]
    if colours > 1:
        tags += [(50721, "2i", 9, _fractions(_MATRIX), True), (50778, "H", 1, 21, True)]
    if neutral:
        tags.append((50728, "2I", 3, _fractions(neutral), True))
    return tags


def dng(
    values=None,
    pattern=RGGB,
    orientation=1,
    neutral=(0.5, 1.0, 0.625),
    noise_profile=None,
    preview=False,
    big=False,
    **options,
):
    """A DNG's bytes. values: (H, W), or (H, W, 3) for linear raw.

    pattern: colours of a colour filter array; () for linear raw, or a camera without colours.
    neutral: the camera's white balance; None for none.
    preview: the first page is a small preview, and the raw data lie beneath it. big: BigTIFF.
    options: of tifffile's `write`.
    """
    values = scene() if values is None else values
    colours = 1 if values.ndim == 2 and not pattern else 3
    camera = _camera_tags(orientation, neutral, colours)
    raw = _raw_tags(pattern, BLACK, WHITE)
    if noise_profile:
        raw.append((51041, "d", len(noise_profile), noise_profile, True))
    # tifffile writes no linear raw of one channel.
    options = {
        "photometric": CFA if values.ndim == 2 else LINEAR_RAW,
        "metadata": None,
        "subfiletype": 0,
    } | options
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=big) as writer:
        if preview:
            small = np.full((12, 16, 3), 99, np.uint8)
            writer.write(small, photometric="rgb", subfiletype=1, subifds=1, extratags=camera, metadata=None)
            writer.write(values, extratags=raw, **options)
        else:
            writer.write(values, extratags=camera + raw, **options)
    if colours == 1:
        file.seek(0)
        with tifffile.TiffFile(file) as written:
            at = written.pages[0].tags[262].valueoffset
        file.getbuffer()[at : at + 2] = LINEAR_RAW.to_bytes(2, "little")
    return file.getvalue()


def nef(values=None):
    """As Nikon's files are built: a preview, and raw data in an IFD beneath it."""
    values = scene() if values is None else values
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        small = np.full((12, 16, 3), 99, np.uint8)
        tags = [(271, "s", 0, "NIKON CORPORATION", True), (272, "s", 0, "NIKON D850", True)]
        writer.write(small, photometric="rgb", subfiletype=1, subifds=1, extratags=tags, metadata=None)
        writer.write(
            values, photometric=CFA, subfiletype=0, extratags=_raw_tags(RGGB, 0, 16383)[2:], metadata=None
        )
    return file.getvalue()
