"""ND2."""

import io

import numpy as np
import pytest
import tifffile

from engine.imageio.formats import FORMATS, BrokenImage, ImageTooLarge, TooManyPages, UnsupportedImage
from engine.imageio.mapped_file import map_file
from engine.imageio.read import count_pages, page_places, read, read_info, read_pages
from engine.imageio.write import encode
from tests.support.nd2_files import LOSSLESS, LOSSY, NONE, nd2_file

RNG = np.random.default_rng(0)
LOST = "without the ND2 metadata"


def drawn(count=1, components=1, dtype="uint16", height=20, width=30):
    return (RNG.random((count, height, width, components)) * 200).astype(dtype)


def numbered(count, components):
    """Frames whose samples tell the number of the frame and of the channel."""
    frames = np.zeros((count, 4, 5, components), np.uint16)
    frames += 100 * np.arange(count, dtype=np.uint16)[:, None, None, None]
    return frames + np.arange(components, dtype=np.uint16)


def firsts(data):
    return [int(page.samples[0, 0, 0]) for page in read(data).pages]


@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("compression", [NONE, LOSSLESS])
def test_rows_that_are_longer_than_their_pixels_are_read(compression, components, tmp_path):
    frames = drawn(2, components, width=31)
    (tmp_path / "a.nd2").write_bytes(nd2_file(frames, [("T", 2)], compression=compression, padding=2))

    expected = frames.transpose(0, 3, 1, 2).reshape(2 * components, 20, 31)
    pages = read((tmp_path / "a.nd2").read_bytes()).pages
    np.testing.assert_array_equal(np.stack([page.samples[..., 0].numpy() for page in pages]), expected)
    with map_file(tmp_path / "a.nd2") as data:
        pages = [page for page, _ in read_pages(data)]
        np.testing.assert_array_equal(np.stack([page.samples[..., 0].numpy() for page in pages]), expected)


@pytest.mark.parametrize("compression", [NONE, LOSSLESS])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_every_type_comes_back_as_tiff(dtype, compression):
    frames = drawn(3, 2, dtype)

    data = nd2_file(frames, [("T", 3)], compression=compression)

    back = tifffile.imread(io.BytesIO(encode(read(data), FORMATS["tiff"]).data))
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, frames.transpose(0, 3, 1, 2).reshape(6, 20, 30))


@pytest.mark.parametrize("version", [2, 3])
def test_pages_are_in_order_of_position_time_and_focal_plane(version):
    data = nd2_file(numbered(12, 2), [("T", 2), ("P", 3), ("Z", 2)], version=version)

    # Frame = 6 t + 2 p + z.
    frames = [6 * t + 2 * p + z for p in range(3) for t in range(2) for z in range(2)]
    assert firsts(data) == [100 * frame + channel for frame in frames for channel in range(2)]


def test_pages_of_one_place_are_the_same_at_other_times():
    places = [f"position {p}, focal plane {z}, channel {c}" for p in (1, 2) for z in (1, 2) for c in (1, 2)]

    data = nd2_file(numbered(8, 2), [("P", 2), ("T", 2), ("Z", 2)])
    assert page_places(data) == [*places[:4], *places[:4], *places[4:], *places[4:]]
    assert page_places(nd2_file(numbered(3, 1), [("T", 3)])) == ["", "", ""]
    assert page_places(nd2_file(numbered(2, 1))) == ["frame 1", "frame 2"]


def test_frames_that_were_not_recorded_are_left_out_and_told():
    data = nd2_file(numbered(6, 1), [("T", 6)], missing=(2, 4, 5))

    assert firsts(data) == [0, 100, 300]
    assert read(data).changed == ("without 3 frames that were not recorded", LOST)


def test_frames_that_no_loop_explains_keep_their_order():
    assert firsts(nd2_file(numbered(5, 1), [("T", 2)])) == [0, 100, 200, 300, 400]
    assert firsts(nd2_file(numbered(5, 1))) == [0, 100, 200, 300, 400]


@pytest.mark.parametrize("version", [2, 3])
def test_the_size_of_a_pixel_becomes_the_resolution(version):
    data = nd2_file(drawn(), micrometres=0.1, version=version)

    assert read(data).pages[0].metadata.resolution == pytest.approx((254_000, 254_000))
    assert read(nd2_file(drawn())).pages[0].metadata.resolution is None


def test_limits_hold_before_pixels_are_decoded():
    data = nd2_file(drawn(5), [("T", 5)])

    with pytest.raises(ImageTooLarge, match="30 x 20 = 600 pixels"):
        read(data, max_pixels=599)
    with pytest.raises(TooManyPages, match="more than 4 pages"):
        read_info(data, max_pages=4)
    assert read_info(data, page=2, max_pages=1).pixels == 600


def test_planes_are_read_from_a_mapped_file(tmp_path):
    frames = drawn(5, 2)
    (tmp_path / "a.nd2").write_bytes(nd2_file(frames, [("T", 5)]))

    with map_file(tmp_path / "a.nd2") as data:
        assert count_pages(data) == 10
        [(page, _)] = read_pages(data, {7})
        np.testing.assert_array_equal(page.samples[..., 0].numpy(), frames[3, ..., 1])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (nd2_file(drawn(components=3), colours=3), "from a colour camera"),
        (nd2_file(drawn(), compression=LOSSY), "compressed with loss"),
        (nd2_file(drawn(dtype="float64")), "of the type uint64"),
    ],
)
def test_other_content_is_refused(data, message):
    with pytest.raises(UnsupportedImage, match=message):
        read(data)


@pytest.mark.parametrize("size", [-1, -500, 5000, 100, 20, 4])
def test_a_file_cut_short_is_broken(size):
    with pytest.raises(BrokenImage, match="broken or cut short: it does not end with a map"):
        read(nd2_file(drawn())[:size])


def test_a_frame_that_lies_beyond_the_end_is_broken():
    data = nd2_file(drawn())
    at = data.index(b"ImageDataSeq|0!", len(data) - 400) + len(b"ImageDataSeq|0!")

    with pytest.raises(BrokenImage, match="pixels are missing"):
        read(data[:at] + (len(data) - 4200).to_bytes(8, "little") + data[at + 8 :])


def test_a_compressed_frame_that_is_too_short_is_broken():
    frames = drawn()
    short = nd2_file(frames[:, :10], compression=LOSSLESS)
    # The height in the attributes.
    at = short.index("uiHeight".encode("utf-16-le")) + 18

    with pytest.raises(BrokenImage, match="ND2 file is broken"):
        read(short[:at] + (20).to_bytes(4, "little") + short[at + 4 :])
