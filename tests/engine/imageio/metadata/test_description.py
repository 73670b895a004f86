"""Descriptions of samples: they are true of what is written."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from engine.imageio.formats import FORMATS
from engine.imageio.read import read
from engine.imageio.write import encode
from engine.inference.denoise import OutputOptions, denoise
from tests.support.networks import NETWORKS

STACK = np.arange(4 * 12 * 10, dtype=np.uint16).reshape(4, 12, 10)


def saved(values, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def written(data, page=None, kind="tiff"):
    return encode(read(data, page=page), FORMATS[kind])


def opened(data):
    return tifffile.TiffFile(io.BytesIO(data))


def imagej(**metadata):
    known = {"axes": "ZYX", "unit": "um", "spacing": 0.3, "Labels": ["a", "b", "c", "d"], "min": 3.0, **metadata}
    return saved(STACK, imagej=True, resolution=(15.384615, 7.5), metadata=known)


def ome(values=STACK, **metadata):
    known = {"axes": "ZYX", "PhysicalSizeX": 0.065, "PhysicalSizeXUnit": "µm", **metadata}
    return saved(values, ome=True, metadata=known)


def test_an_imagej_stack_keeps_its_description():
    with opened(imagej()) as before, opened(written(imagej()).data) as after:
        assert after.imagej_metadata == before.imagej_metadata
        assert after.series[0].shape == STACK.shape
        assert after.pages[0].resolution == before.pages[0].resolution
        assert after.pages[0].resolutionunit == before.pages[0].resolutionunit


@pytest.mark.parametrize("page", [1, 3])
def test_a_page_of_an_imagej_stack_is_described_as_one(page):
    with opened(written(imagej(), page).data) as file:
        known, resolution = file.imagej_metadata, file.pages[0].resolution
        np.testing.assert_array_equal(file.asarray(), STACK[page - 1])

    assert (known["unit"], known["spacing"], known["min"]) == ("um", 0.3, 3.0)
    assert not known.keys() & {"images", "slices", "Labels"}
    assert resolution == pytest.approx((15.384615, 7.5))


def test_the_size_of_a_pixel_is_kept_in_a_png_too():
    back = written(written(imagej(), 1, "png").data)

    with opened(back.data) as file:
        assert file.pages[0].resolution == pytest.approx((15.384615, 7.5))
        assert "unit=um" in file.pages[0].description


@pytest.mark.parametrize("resolution", [((1, 50), (1, 50)), ((10, 1), (20, 1))])
def test_a_resolution_without_unit_keeps_its_numbers(resolution):
    data = saved(STACK[0], resolution=resolution, resolutionunit="NONE", metadata=None)

    with opened(written(data).data) as file:
        assert tuple(file.pages[0].tags.valueof(tag) for tag in (282, 283, 296)) == (*resolution, 1)


def test_more_dots_than_any_printer_has_are_kept():
    data = saved(STACK[0], resolution=(500_000, 500_000), resolutionunit="CENTIMETER", metadata=None)

    with opened(written(data).data) as file:
        assert file.pages[0].resolution == (500_000, 500_000)
        assert file.pages[0].resolutionunit == 3


def test_a_page_of_a_tifffile_stack_is_described_as_one():
    data = saved(STACK, photometric="minisblack", metadata={"axes": "ZYX", "dye": "DAPI"})

    with opened(written(data, 2).data) as file:
        assert json.loads(file.pages[0].description) == {"shape": [12, 10], "dye": "DAPI"}
        np.testing.assert_array_equal(file.series[0].asarray(), STACK[1])


def test_a_description_of_separate_planes_becomes_one_of_pixels():
    planes = np.arange(3 * 12 * 10, dtype=np.uint16).reshape(3, 12, 10)
    data = saved(planes, photometric="rgb", planarconfig="separate")

    with opened(written(data).data) as file:
        np.testing.assert_array_equal(file.series[0].asarray(), planes.transpose(1, 2, 0))


def test_an_ome_stack_keeps_its_description():
    data = ome()

    with opened(data) as before, opened(written(data).data) as after:
        assert after.ome_metadata == before.ome_metadata
        np.testing.assert_array_equal(after.asarray(), STACK)


def test_a_page_of_an_ome_stack_is_described_as_one():
    with opened(written(ome(), 3).data) as file:
        np.testing.assert_array_equal(file.asarray(), STACK[2])
        known = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]

    assert (known["SizeX"], known["SizeY"], known["SizeZ"], known["Type"]) == (10, 12, 1, "uint16")
    assert known["PhysicalSizeX"] == 0.065
    assert known["TiffData"]["PlaneCount"] == 1


def test_ome_says_the_type_and_size_that_were_written():
    file = read(ome(STACK[:1]))
    page = replace(file.pages[0], samples=file.pages[0].samples.float().repeat(1, 2, 1))

    with opened(encode(replace(file, pages=(page,)), FORMATS["tiff"]).data) as back:
        known = tifffile.xml2dict(back.ome_metadata)["OME"]["Image"]["Pixels"]

    assert (known["SizeX"], known["SizeY"], known["Type"]) == (20, 12, "float")


def test_ome_of_several_series_is_left_out_for_a_page():
    file = io.BytesIO()
    with tifffile.TiffWriter(file, ome=True) as writer:
        writer.write(STACK, metadata={"axes": "ZYX"})
        writer.write(STACK[:2], metadata={"axes": "ZYX"})

    assert written(file.getvalue()).changed == ()
    assert written(file.getvalue(), 2).changed == ("without the OME description, which is of other images",)


def test_statistics_of_the_noisy_image_are_left_out():
    items = b'<Item name="STATISTICS_MAXIMUM" sample="0">7</Item>\n  <Item name="a">b</Item>'
    xml = b"<GDALMetadata>\n  " + items + b"\n</GDALMetadata>"
    data = saved(STACK[0], metadata=None, extratags=[(42112, 2, len(xml) + 1, xml, True)])

    with opened(written(data).data) as file:
        left = file.pages[0].tags[42112].value

    assert "STATISTICS" not in left
    assert '<Item name="a">b</Item>' in left


def test_values_in_the_old_units_are_left_out_where_samples_are_scaled():
    xml = b'<GDALMetadata><Item name="SCALE" sample="0" role="scale">0.1</Item></GDALMetadata>'
    extra = [(42112, 2, len(xml) + 1, xml, True), (42113, 2, 2, "7", True)]
    data = saved(STACK[0].astype(np.float32), metadata=None, extratags=extra)
    packed = saved(STACK[0], bitspersample=12, metadata=None, extratags=extra)

    kept, in_png, in_16_bits = written(data), written(written(data, kind="png").data), written(packed)

    assert in_16_bits.changed == ("12 bits to 16, scaled",)
    with opened(kept.data) as file:
        assert {42112, 42113} <= set(file.pages[0].tags.keys())
    for each in (in_png, in_16_bits):
        with opened(each.data) as file:
            assert 42113 not in file.pages[0].tags
            assert "SCALE" not in str(file.pages[0].tags.valueof(42112))


def residual(data):
    file = read(data)
    pages = (denoise(NETWORKS[0], page, options=OutputOptions(output="residual")) for page in file.pages)
    return opened(encode(replace(file, pages=tuple(pages)), FORMATS["tiff"]).data)


def test_the_range_and_calibration_of_imagej_are_not_the_residuals():
    values = {"max": 9.0, "cf": 0, "c0": 5.0, "c1": 2.0, "vunit": "nm", "Ranges": (0.0, 9.0)}

    with opened(imagej(**values)) as before, residual(imagej(**values)) as after:
        assert {"min", "Ranges"} <= before.imagej_metadata.keys()
        assert not {"min", *values} & after.imagej_metadata.keys()
        assert after.imagej_metadata["Labels"] == ["a", "b", "c", "d"]
        assert after.imagej_metadata["unit"] == "um"


def test_the_bits_of_ome_are_not_the_residuals():
    with opened(ome(SignificantBits=12)) as before, residual(ome(SignificantBits=12)) as after:
        assert "SignificantBits" in before.ome_metadata
        assert "SignificantBits" not in after.ome_metadata
        assert "PhysicalSizeX" in after.ome_metadata


def test_the_residual_keeps_the_value_for_no_data_but_no_scale():
    xml = b'<GDALMetadata><Item name="SCALE" sample="0" role="scale">0.1</Item></GDALMetadata>'
    extra = [(42112, 2, len(xml) + 1, xml, True), (42113, 2, 2, "7", True)]

    with residual(saved(STACK[0].astype(np.float32), metadata=None, extratags=extra)) as file:
        assert file.pages[0].tags.valueof(42113) == "7"
        assert "SCALE" not in str(file.pages[0].tags.valueof(42112))
        assert file.asarray()[0, 7] == 7


def test_the_bits_of_ome_are_left_out_where_samples_are_scaled():
    data = saved(STACK[0], bitspersample=12, description=ome_text(), metadata=None)

    with opened(written(data).data) as file:
        assert "SizeX" in file.pages[0].description
        assert "SignificantBits" not in file.pages[0].description


def ome_text():
    with opened(ome(STACK[0], axes="YX", SignificantBits=12)) as file:
        return file.pages[0].description.encode()


def test_the_range_of_an_imagej_image_is_left_out_where_samples_are_scaled():
    text = "ImageJ=1.54f\nunit=um\nmin=0.0\nmax=4095.0\n"
    data = saved(STACK[0], bitspersample=12, description=text, metadata=None)

    with opened(written(data).data) as file:
        assert "unit=um" in file.pages[0].description
        assert "max" not in file.pages[0].description
