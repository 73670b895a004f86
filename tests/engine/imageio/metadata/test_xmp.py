"""What XMP announces besides the image."""

import pytest

from engine.imageio.metadata import Metadata
from engine.imageio.metadata.xmp import without_other_images

HEAD = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" '
)
TAIL = b"</rdf:Description></rdf:RDF></x:xmpmeta>"
TITLE = b"<dc:title>A title</dc:title>"
DIRECTORY = (
    b'<Container:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="GainMap" '
    b'Item:Length="99"/></rdf:li></rdf:Seq></Container:Directory>'
)
CONTAINER = (
    b'xmlns:Container="http://ns.google.com/photos/1.0/container/" '
    b'xmlns:Item="http://ns.google.com/photos/1.0/container/item/"'
)
CAMERA = b'xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" '
GAIN_MAP = b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" '


def test_a_gain_map_is_no_longer_announced():
    xmp = HEAD + GAIN_MAP + b'hdrgm:Version="1.0" dc:format="x" ' + CONTAINER + b">" + TITLE + DIRECTORY + TAIL

    kept, lost = without_other_images(xmp)

    assert lost == ("the HDR gain map",)
    assert kept == HEAD.rstrip() + b' dc:format="x">' + TITLE + TAIL


def test_elements_of_a_gain_map_go_with_what_they_hold():
    inner = (
        b"<hdrgm:GainMapMax><rdf:Seq><rdf:li>1</rdf:li></rdf:Seq></hdrgm:GainMapMax><hdrgm:Gamma>1</hdrgm:Gamma>"
    )

    kept, _ = without_other_images(HEAD + GAIN_MAP + b">" + inner + TITLE + TAIL)

    assert kept == HEAD.rstrip() + b" >" + TITLE + TAIL


@pytest.mark.parametrize(
    "value", [b'GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1"', b"GCamera:MicroVideo='1'"]
)
def test_a_motion_photo_is_a_photo_without_its_video(value):
    kept, lost = without_other_images(HEAD + CAMERA + value + b' GCamera:BurstID="7">' + TITLE + TAIL)

    assert lost == ("the motion photo's video",)
    assert kept == HEAD + CAMERA.rstrip() + b' GCamera:BurstID="7">' + TITLE + TAIL


def test_a_photo_that_only_could_have_moved_lost_nothing():
    assert without_other_images(HEAD + CAMERA + b'GCamera:MotionPhoto="0">' + TAIL)[1] == ()


def test_depth_and_extended_xmp_are_told():
    depth = b'xmlns:GDepth="http://ns.google.com/photos/1.0/depthmap/" GDepth:Near="1" '
    note = b'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="0123" '

    kept, lost = without_other_images(HEAD + depth + note + b">" + TAIL)

    assert lost == ("the depth map", "extended XMP")
    assert b"GDepth" not in kept
    assert b"HasExtendedXMP" not in kept


@pytest.mark.parametrize(
    "xmp", [b"", b"no XMP at all", b"<a:b", HEAD + b">" + TITLE + TAIL, b"<a:b c:d='1'><a:b/></a:b>"]
)
def test_other_packets_stay_as_they_are(xmp):
    assert without_other_images(xmp) == (xmp, ())


def test_the_metadata_of_an_image_alone_say_what_they_lack():
    metadata = Metadata(xmp=HEAD + GAIN_MAP + b'hdrgm:Version="1.0">' + TAIL).upright()

    assert metadata.lost == ("the HDR gain map",)
    assert b"hdrgm" not in metadata.xmp


def test_a_packet_made_to_be_slow_is_not():
    for piece in (b"<hdrgm:a>", b" hdrgm:a='", b"<hdrgm:a ", b" xmlns:", b'"', b"<"):
        without_other_images(HEAD + GAIN_MAP + piece * 200_000)
