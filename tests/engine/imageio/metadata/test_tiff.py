"""Metadata in TIFF files."""

import io

import numpy as np
import pytest
import tifffile

from engine.imageio.formats import FORMATS
from engine.imageio.read import read
from engine.imageio.write import encode


def test_a_resolution_in_centimetres_is_converted_to_inches():
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((4, 4), np.uint8), resolution=(100, 50), resolutionunit="CENTIMETER")

    assert read(file.getvalue()).pages[0].metadata.resolution == pytest.approx((254, 127))


def test_a_tiffs_own_tags_are_kept_and_layout_tags_are_not():
    file = io.BytesIO()
    extra = [(315, 2, 7, "Artist", True), (285, 2, 5, "page", True), (65000, 4, 3, (1, 2, 3), True)]
    tifffile.imwrite(
        file, np.zeros((8, 8, 3), np.uint16), description="a black square", metadata=None, extratags=extra
    )

    data = encode(read(file.getvalue()), FORMATS["tiff"]).data
    with tifffile.TiffFile(io.BytesIO(data)) as again:
        kept = {tag.code: tag.value for tag in again.pages[0].tags}

    assert (kept[315], kept[285], kept[65000], kept[270]) == ("Artist", "page", (1, 2, 3), "a black square")
    assert kept[259] == 8
