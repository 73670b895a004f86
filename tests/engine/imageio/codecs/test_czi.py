"""CZI."""

import io

import numpy as np
import pytest
import tifffile

from engine.imageio.formats import FORMATS, BrokenImage, ImageTooLarge, TooManyPages, UnsupportedImage
from engine.imageio.mapped_file import map_file
from engine.imageio.read import count_pages, page_places, read, read_info, read_pages
from engine.imageio.write import encode
from tests.support import czi_files
from tests.support.czi_files import Tile, czi_file

RNG = np.random.default_rng(0)
LOST = "without the CZI metadata"
COMPRESSIONS = ("none", "zstd", "zstd with header", "zstd in halves", "jpeg xr")


def drawn(dtype="uint16", channels=1, height=20, width=30):
    values = (RNG.random((height, width, channels)) * 200).astype(dtype)
    return values[..., 0] if channels == 1 else values


def samples(data, page=0):
    return read(data).pages[page].samples.numpy().squeeze()


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize(
    ("dtype", "channels"),
    [("uint8", 1), ("uint16", 1), ("float32", 1), ("uint8", 3), ("uint16", 3), ("float32", 3)],
)
def test_every_type_and_compression_comes_back(dtype, channels, compression):
    if compression == "zstd in halves" and dtype != "uint16":
        pytest.skip("only samples of 16 bits are stored so")
    if compression == "jpeg xr" and dtype == "float32":
        pytest.skip("not without loss")
    values = drawn(dtype, channels)

    data = czi_file(Tile(values, {"C": 0}, compression=compression))

    back = tifffile.imread(io.BytesIO(encode(read(data), FORMATS["tiff"]).data))
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, values)


def test_pages_are_scenes_times_planes_and_channels_in_order():
    places = [
        {"S": s, "T": t, "Z": z, "C": c} for s in range(2) for t in range(2) for z in range(3) for c in range(2)
    ]
    tiles = [Tile(np.full((4, 5), number, np.uint16), place) for number, place in enumerate(places)]
    RNG.shuffle(tiles)

    file = read(czi_file(*tiles))

    assert [int(page.samples[0, 0, 0]) for page in file.pages] == list(range(24))


def test_pages_of_one_place_are_the_same_at_other_times():
    tiles = [Tile(drawn(), {"S": 1, "T": t, "Z": 0, "C": c}) for t in range(2) for c in range(2)]

    assert page_places(czi_file(*tiles)) == ["channel 1", "channel 2", "channel 1", "channel 2"]
    assert page_places(czi_file(*tiles[::2])) == ["", ""]


def test_channels_keep_their_own_types():
    data = czi_file(Tile(drawn("uint8"), {"C": 0}), Tile(drawn("float32"), {"C": 1}))

    assert [page.depth for page in read(data).pages] == ["8", "float"]
    assert read_info(data).depth == "float"


def test_tiles_make_one_image_and_later_ones_cover_earlier_ones():
    first, second = drawn(), drawn()

    image = samples(czi_file(Tile(second, {"M": 1}, at=(25, -5)), Tile(first, {"M": 0})))

    np.testing.assert_array_equal(image[:20, 25:], second)
    np.testing.assert_array_equal(image[5:, :25], first[:, :25])
    assert image.shape == (25, 55)
    assert not image[:5, :25].any()


def test_what_no_tile_covers_is_missing():
    counts = [RNG.poisson(50, (60, 60)).astype(np.uint16) + 1000 for _ in range(2)]

    file = read(
        czi_file(*[Tile(each, {"M": number}, (80 * number, 30 * number)) for number, each in enumerate(counts)])
    )

    assert int((file.pages[0].missing.codes > 0).sum()) == 90 * 140 - 2 * 60 * 60
    assert "the fill value 0 kept as it is" in file.changed


def test_each_scene_has_its_own_size():
    data = czi_file(Tile(drawn(), {"S": 0}), Tile(drawn(height=10), {"S": 1}, at=(5000, 5000)))

    assert [page.samples.shape for page in read(data).pages] == [(20, 30, 1), (10, 30, 1)]


def test_smaller_copies_are_left_out():
    data = czi_file(Tile(drawn(), {"S": 0}), Tile(drawn(height=10, width=15), {"S": 0}, shrunk=2))

    assert count_pages(data) == 1
    assert read(data).changed == (LOST,)


def test_planes_of_another_resolution_are_told():
    data = czi_file(Tile(drawn(), {"C": 0}), Tile(drawn(height=10, width=15), {"C": 1}, shrunk=2))

    assert read(data).changed == ("without 1 planes of another resolution", LOST)


def test_a_fourth_channel_is_left_out():
    values = drawn("uint8", 4)

    data = czi_file(Tile(values))

    np.testing.assert_array_equal(samples(data), values[..., :3])
    assert "without the fourth channel, which has no meaning" in read(data).changed


def test_the_size_of_a_pixel_becomes_the_resolution():
    page = read(czi_file(Tile(drawn()), metres=(1e-7, 2e-7))).pages[0]

    assert page.metadata.resolution == pytest.approx((254_000, 127_000))


def test_limits_hold_before_pixels_are_decoded():
    data = czi_file(*[Tile(drawn(), {"T": t}) for t in range(5)])

    with pytest.raises(ImageTooLarge, match="30 x 20 = 600 pixels"):
        read(data, max_pixels=599)
    with pytest.raises(TooManyPages, match="more than 4 pages"):
        read_info(data, max_pages=4)
    assert read_info(data, page=2, max_pages=1).pixels == 600


def test_planes_are_read_from_a_mapped_file(tmp_path):
    tiles = [Tile(drawn(), {"T": t}) for t in range(5)]
    (tmp_path / "a.czi").write_bytes(czi_file(*tiles))

    with map_file(tmp_path / "a.czi") as data:
        [(page, _)] = read_pages(data, {3})
        np.testing.assert_array_equal(page.samples[..., 0].numpy(), tiles[3].values)


@pytest.mark.parametrize(
    ("tile", "message"),
    [
        (Tile(drawn("complex64")), "of the type gray64complexfloat"),
        (Tile(drawn(), compression="jpeg"), "compressed with JPEG. Save it uncompressed"),
        (Tile(drawn(), {"T": 0}, size_of_place=3), "lines or points, not planes"),
        (Tile(drawn(), {"Q": 0}), "has an unknown dimension, Q"),
        (Tile(drawn(), file_part=1), "one of several that belong together"),
        (Tile(drawn(), shrunk=2), "no plane in full resolution"),
    ],
)
def test_other_content_is_refused(tile, message):
    with pytest.raises(UnsupportedImage, match=message):
        read(czi_file(tile))


def test_tiles_of_several_types_in_one_plane_are_broken():
    with pytest.raises(BrokenImage, match="tiles of a plane differ in type"):
        read(czi_file(Tile(drawn(), {"M": 0}), Tile(drawn("uint8"), {"M": 1})))


@pytest.mark.parametrize(("size", "reason"), [(-700, "no directory"), (600, "no directory"), (100, ""), (20, "")])
def test_a_file_cut_short_is_broken(size, reason):
    with pytest.raises(BrokenImage, match=f"CZI file is broken or cut short: .*{reason}"):
        read(czi_file(Tile(drawn()))[:size])


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_tile_cut_short_is_broken(compression, monkeypatch):
    whole = czi_files.packed
    monkeypatch.setattr(czi_files, "packed", lambda tile: whole(tile)[:100])

    with pytest.raises(BrokenImage, match="CZI file is broken"):
        read(czi_file(Tile(drawn(), compression=compression)))


@pytest.mark.parametrize("other", [drawn("uint8"), drawn(height=21), drawn("uint16", 3)])
def test_a_jpeg_xr_header_that_does_not_fit_is_broken(other, monkeypatch):
    # The decoder would end the process.
    tile, another = Tile(drawn(), compression="jpeg xr"), czi_files.packed(Tile(other, compression="jpeg xr"))
    monkeypatch.setattr(czi_files, "packed", lambda _: another)

    with pytest.raises(BrokenImage, match="a tile's JPEG XR header does not fit the tile"):
        read(czi_file(tile))
