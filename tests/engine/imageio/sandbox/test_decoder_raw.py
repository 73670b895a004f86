"""Camera raw files in decoder processes: on one thread, within the limits, and whatever is broken is refused."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from engine.imageio.formats import FORMATS, BrokenImage, ImageTooLarge, NotAnImage, NotCameraRaw, UnsupportedImage
from engine.imageio.read import develop, read, read_info, read_mosaic
from engine.imageio.sandbox.decoder import Crashed, Decoder, TooLargeToDecode
from engine.imageio.sandbox.shared_file import in_memory
from tests.support.noise import DATA
from tests.support.raw_files import dng, nef, scene

REAL = DATA / "raw"
REAL_FILES = [
    "arw_imagemeta.arw",
    "canon_imagemeta.crw",
    "colorchart.dng",
    "kodak_dc50.kdc",
    "skia_sample_1mp.dng",
]
REFUSED = (BrokenImage, UnsupportedImage, NotAnImage)
LOSSLESS_JPEG = {"compression": "jpeg", "compressionargs": {"lossless": True, "bitspersample": 14}}
FILES = {
    "dng": dng(),
    "dng with a preview": dng(preview=True, noise_profile=(1e-4, 1e-6)),
    "dng, compressed": dng(scene(128, 128), tile=(64, 64), **LOSSLESS_JPEG),
    "linear dng": dng(np.stack([scene()] * 3, -1), ()),
    "nef": nef(),
}
MAX_PIXELS = 25_000_000


@pytest.fixture(scope="module")
def decoder():
    with Decoder() as decoder:
        yield decoder


def workers(decoder):
    return [worker.pid for worker in decoder._idle]


def variants(data, seed):
    """Cut at 3, 30, 70 and 98 %, and with flipped bits: in the first 2000 bytes or anywhere, few or many."""
    for percent in (3, 30, 70, 98):
        yield data[: len(data) * percent // 100]
    for number in range(12):
        random, flipped = Random(f"{seed} {number}"), bytearray(data)
        within = len(flipped) if number % 2 else min(len(flipped), 2000)
        for _ in range((1, 5, 20, 200)[number % 4]):
            flipped[random.randrange(within)] ^= 1 << random.randrange(8)
        yield bytes(flipped)


def decode_or_refuse(decoder, data):
    """Whether it is decoded. An error that means a dead or slow worker is raised."""
    try:
        with in_memory(data) as file:
            decoder.read_info(file, MAX_PIXELS)
            decoder.read(file, MAX_PIXELS)
    except (Crashed, TooLargeToDecode):
        raise
    except (*REFUSED, ImageTooLarge):
        return False
    return True


@pytest.mark.parametrize("name", FILES)
def test_broken_variants_are_decoded_or_refused_by_one_worker(name, decoder):
    assert decode_or_refuse(decoder, FILES[name])
    first = workers(decoder)

    decoded = [decode_or_refuse(decoder, data) for data in variants(FILES[name], name)]

    assert not any(decoded[:4])
    assert workers(decoder) == first


@pytest.mark.skipif(not REAL.is_dir(), reason="the raw files are not in ../shared/data")
@pytest.mark.parametrize("name", REAL_FILES)
def test_real_files_and_their_broken_variants(name, decoder):
    data = (REAL / name).read_bytes()
    # The Sony file has its header alone: LibRaw would make a black image of it.
    assert decode_or_refuse(decoder, data) == (not name.endswith(".arw"))
    first = workers(decoder)

    decoded = [decode_or_refuse(decoder, variant) for variant in variants(data, name)]

    assert not any(decoded[:4])
    assert workers(decoder) == first


def test_libraw_runs_on_one_thread_in_a_worker(decoder):
    assert decode_or_refuse(decoder, FILES["dng"])

    [pid] = workers(decoder)
    maps = Path(f"/proc/{pid}/maps").read_text()

    assert "libraw" in maps
    assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
    assert "libraw" not in Path(f"/proc/{decoder.fork_server.pid}/maps").read_text()


@pytest.mark.parametrize("name", FILES)
def test_a_worker_gives_what_this_process_gives(name, decoder):
    data = FILES[name]

    with in_memory(data) as file:
        file_read, info = decoder.read(file, colour="prophoto"), decoder.read_info(file, colour="prophoto")
        mosaic = decoder.read_mosaic(file)

    own = read(data, colour="prophoto")
    assert info == read_info(data)
    assert (file_read.kind, file_read.changed) == (FORMATS["raw"], own.changed)
    assert torch.equal(file_read.pages[0].samples, own.pages[0].samples)
    assert file_read.pages[0].metadata == own.pages[0].metadata
    expected = read_mosaic(data)
    assert (mosaic is None) == (expected is None)
    if mosaic:
        np.testing.assert_array_equal(mosaic.values, expected.values)
        others = ("pattern", "black", "white", "noise_profile")
        assert [getattr(mosaic, each) for each in others] == [getattr(expected, each) for each in others]


def test_a_worker_develops_another_mosaic(decoder):
    data, other = FILES["dng"], scene(seed=1, noise=0)

    with in_memory(data) as file:
        developed = decoder.develop(file, other)

    own = develop(data, other)
    assert developed.changed == own.changed
    assert torch.equal(developed.pages[0].samples, own.pages[0].samples)


def test_a_raw_file_is_known_by_more_than_its_beginning(decoder):
    # Its first IFD lies behind more bytes than the service looks at before it asks a worker.
    data = bytearray(FILES["nef"])
    moved = len(data) + len(data) % 2
    at = int.from_bytes(data[4:8], "little")
    size = 2 + 12 * int.from_bytes(data[at : at + 2], "little") + 4
    data = data.ljust(moved, b"\0") + data[at : at + size]
    data[4:8] = moved.to_bytes(4, "little")

    with in_memory(bytes(data)) as file:
        assert decoder.read_info(file).kind.name == "raw"
        assert decoder.read(file).kind.name == "raw"


def test_the_limit_on_pixels_holds_before_anything_is_unpacked(decoder):
    with in_memory(FILES["dng"]) as file:
        for work in (decoder.read, decoder.read_info, decoder.read_mosaic):
            with pytest.raises(ImageTooLarge, match="the limit is 3000"):
                work(file, 3000)
        with pytest.raises(ImageTooLarge, match="the limit is 3000"):
            decoder.develop(file, scene(), 3000)


def test_the_memory_of_libraw_is_bounded():
    with Decoder(memory=2**25) as small, in_memory(dng(scene(1500, 2000))) as file:
        with pytest.raises(TooLargeToDecode, match="takes more than 33554432 bytes of memory"):
            small.read(file)
        with in_memory(FILES["dng"]) as other:
            assert small.read(other).kind.name == "raw"


def test_a_colour_space_for_another_file_is_refused(decoder, file_of, samples):
    with in_memory(file_of(samples(4, 5))) as file, pytest.raises(NotCameraRaw, match="this is a PNG file"):
        decoder.read(file, colour="prophoto")
