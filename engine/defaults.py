"""Defaults and limits that the engine, the command line and the HTTP service share. Imports no torch."""

from typing import Literal

# The three images that a result can show.
Output = Literal["clean", "residual", "compare"]
# The colour spaces that camera raw files are developed to.
Colour = Literal["srgb", "prophoto"]
# Of a step that runs where the image needs it.
Switch = Literal["auto", "off"]

# Choice of network.
MODEL = "auto"
DEVICE = "auto"
PRECISION = "auto"

# How much noise is removed, as a share of what the network finds. Above 1, further passes smooth more.
STRENGTH = 1.0
MIN_STRENGTH = 0.0
MAX_STRENGTH = 1.5
# Shares of the brightness noise and of the colour noise that are removed, and of the grain that is put back.
LUMA = 1.0
CHROMA = 1.0
GRAIN = 0.0
MIN_SHARE = 0.0
MAX_SHARE = 1.0
OUTPUT: Output = "clean"

# Steps before the network.
NORMALISE: Switch = "auto"
IMPULSES: Switch = "auto"
BANDING: Switch = "auto"

# Memory for one image's pass through the network, in bytes. With this budget, the service's peak for an image of
# 24 megapixels is 0.92 GB in bfloat16 and 0.98 GB in float32.
MEMORY_BUDGET = 256 * 2**20

# Files that are written.
FORMAT = "png"
# Level 1 is fast and compresses photographs well; engine/imageio/codecs/png.py has the measurements.
PNG_LEVEL = 1
MIN_PNG_LEVEL = 0
MAX_PNG_LEVEL = 9
MIN_QUALITY = 1
MAX_QUALITY = 100

# Files that are read.
COLOUR: Colour = "srgb"
# Pages of a document, or frames of an animation.
MAX_PAGES = 100
# Decoding one file. Measured on one Zen 3 core: 50 megapixels of AVIF or HEIC, and 64 MB of JPEG 2000, take 8 s.
# A camera raw file with a Bayer mosaic takes 0.1 s a megapixel, of Fujifilm's X-Trans sensors 0.6 s.
# Other formats take less. A TIFF with 50 megapixels of floating point takes 1.8 GB.
DECODE_SECONDS: float = 60
DECODE_MEMORY = 2 * 2**30  # bytes

# Descriptions that the command line and the HTTP API show for the options that they have in common.
QUALITY_HELP = "Quality of JPEG, WebP and AVIF files. Without it, WebP is lossless."
STRENGTH_HELP = (
    "Share of the noise to remove. Above 1, two more passes smooth further: one sees the noise made stronger by "
    "this factor, one the result."
)
LUMA_HELP = "Share of the luminance noise to remove. Multiplied by strength."
CHROMA_HELP = "Share of the colour noise to remove. Multiplied by strength."
GRAIN_HELP = "Share of the fine brightness noise to put back, for a natural look. Colour noise stays away."
OUTPUT_HELP = (
    "clean: the image without its noise. residual: the noise that was removed, on mid-grey. compare: the images "
    "before and after, side by side."
)
COLOUR_HELP = "Colour space that a camera raw file is developed to. prophoto is for camera raw files only."
NORMALISE_HELP = (
    "Take off an offset, and make noise that grows with brightness even, before the network; undo both after it."
)
IMPULSES_HELP = "Replace impulses: salt and pepper, hot and dead pixels."
BANDING_HELP = "Remove offsets of a sensor's rows and columns."
CLEAN_HELP = "Also denoise an image that is certainly clean, such as a drawing. Otherwise it stays as it is."
PAGE_HELP = "Page of a document, or frame of an animation, to read. Counted from 1."
