"""ND2 files, made by hand after nd2's "ND2 File Format Specification": no package writes them."""

import struct
import zlib

MAGIC = 0x0ABECEDA
# Bytes of the name of a frame's chunk: its pixels begin 4096 bytes after the chunk, a time of 8 bytes included.
FRAME_NAME = 4072
# Names of what a file says of itself.
TITLES = {"ImageAttributes": "SLxImageAttributes", "ImageMetadataSeq": "SLxPictureMetadata",
          "ImageMetadata": "SLxExperiment"}  # fmt: skip
# Numbers of the types of values.
BOOL = 1
UINT32 = 3
DOUBLE = 6
STRING = 8
LEVEL = 11
# Numbers of compressions.
LOSSLESS = 0
LOSSY = 1
NONE = 2
TIME = {"dStart": 0.0, "dPeriod": 100.0, "dDuration": 100.0}


def nd2_file(frames, loops=(), micrometres=None, compression=NONE, colours=1, missing=(), padding=0, version=3):
    """A file's bytes.

    frames: (count, H, W, components). loops: pairs of a name, T, P or Z, and a count, the slowest first.
    micrometres: the side of a pixel. colours: components of a channel. missing: numbers of frames that were not
    recorded. padding: bytes after the pixels of a row. version: 3, or 2, which has XML.
    """
    chunks = [_chunk(b"ND2 FILE SIGNATURE CHUNK NAME01!", b"Ver%d.0".ljust(65, b"\0") % version)]
    places = {}

    def add(name, data, name_bytes=None):
        places[name] = (sum(map(len, chunks)), len(data))
        chunks.append(_chunk(name, data, name_bytes))

    for number, frame in enumerate(frames):
        if number not in missing:
            pixels = b"".join(row.tobytes() + bytes(padding) for row in frame)
            pixels = zlib.compress(pixels) if compression == LOSSLESS else pixels
            add(b"ImageDataSeq|%d!" % number, struct.pack("<d", 100.0 * number) + pixels, FRAME_NAME)
    about = {"ImageAttributes": _attributes(frames, compression, padding),
             "ImageMetadataSeq|0": _picture(frames, micrometres, colours),
             "ImageMetadata": _experiment(loops) if loops else {}}  # fmt: skip
    for name, values in about.items():
        if version == 2:
            add(f"{name}!".encode(), _xml("no_name", values).join((b'<variant version="1.0">', b"</variant>")))
        elif values:
            named, bar, number = name.partition("|")
            add(f"{named}LV{bar}{number}!".encode(), _item(TITLES[named], values))
    start = sum(map(len, chunks))
    entries = b"".join(name + struct.pack("<QQ", *place) for name, place in places.items())
    end = b"ND2 CHUNK MAP SIGNATURE 0000001!" + struct.pack("<Q", start)
    return b"".join([*chunks, _chunk(b"ND2 FILEMAP SIGNATURE NAME 0001!", entries + end)])


def _chunk(name, data, name_bytes=None):
    name = name.ljust(name_bytes or len(name), b"\0")
    return struct.pack("<IIQ", MAGIC, len(name), len(data)) + name + data


def _attributes(frames, compression, padding):
    count, height, width, components = frames.shape
    bits = 8 * frames.dtype.itemsize
    return {
        "uiWidth": width, "uiWidthBytes": frames[0, 0].nbytes + padding, "uiHeight": height, "uiComp": components,
        "uiBpcInMemory": bits, "uiBpcSignificant": bits, "uiSequenceCount": count, "uiTileWidth": width,
        "uiTileHeight": height, "eCompression": compression, "dCompressionParam": -1.0,
    }  # fmt: skip


def _picture(frames, micrometres, colours):
    count = frames.shape[3] // colours
    plane = {"uiCompCount": colours, "sDescription": "dye", "pFluorescentProbe": {"m_sName": "dye"}}
    planes = {f"a{number}": plane for number in range(count)}
    calibration = {"bCalibrated": micrometres is not None, "dCalibration": micrometres or 1.0}
    return {**calibration, "sPicturePlanes": {"uiCount": count, "sPlaneNew": planes}}


def _experiment(loops):
    (name, count), *inner = loops
    match name:
        case "T":
            kind, parameters = 1, {"uiCount": count, **TIME}
        case "P":
            points = {
                f"i{number:010}": {"dPosX": 1.0 * number, "dPosY": 0.0, "dPosZ": 0.0} for number in range(count)
            }
            kind, parameters = 2, {"uiCount": count, "Points": points}
        case _:
            kind, parameters = 4, {"uiCount": count, "dZLow": 0.0, "dZHigh": 1.0, "dZStep": 1.0, "dZHome": 0.0}
    further = {"ppNextLevelEx": {"i0000000000": _experiment(inner)}} if inner else {}
    return {"eType": kind, "uLoopPars": parameters, **further}


def _xml(name, value):
    """A value as an element of "CLxVariant"."""
    if isinstance(value, dict):
        inner = b"".join(_xml(each, value[each]) for each in value)
        return b'<%b runtype="CLxListVariant">%b</%b>' % (name.encode(), inner, name.encode())
    kind = {bool: "bool", float: "double", str: "CLxStringW"}.get(type(value), "lx_uint32")
    return f'<{name} runtype="{kind}" value="{str(value).lower()}"/>'.encode()


def _item(name, value):
    """A value as "CLX Lite": its type, its name, and its bytes."""
    title = f"{name}\0".encode("utf-16-le")
    match value:
        case dict():
            inner = b"".join(_item(each, value[each]) for each in value)
            length = 2 + len(title) + 12 + len(inner)
            kind, data = LEVEL, struct.pack("<IQ", len(value), length) + inner + bytes(8 * len(value))
        case bool():
            kind, data = BOOL, struct.pack("B", value)
        case float():
            kind, data = DOUBLE, struct.pack("<d", value)
        case str():
            kind, data = STRING, f"{value}\0".encode("utf-16-le")
        case _:
            kind, data = UINT32, struct.pack("<I", value)
    return struct.pack("BB", kind, len(title) // 2) + title + data
