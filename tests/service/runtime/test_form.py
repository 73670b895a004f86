"""Forms, taken apart as they arrive: their files, their text fields, and what is refused."""

import pytest

from service.problems import ProblemError
from service.runtime.form import MAX_FIELDS, BrokenForm, EncodedPart, Form, Part, WrongField

TYPE = "multipart/form-data; boundary=cut"
TOO_MANY = ProblemError("too many files")


def part(data, disposition, *headers):
    lines = [f"Content-Disposition: form-data; {disposition}", *headers]
    return b"--cut\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + data + b"\r\n"


def file(data=b"image", name="a.png", field="image"):
    return part(data, f'name="{field}"; filename="{name}"')


def text(field, value):
    return part(value.encode(), f'name="{field}"')


def parsed(*parts, end=b"--cut--\r\n", max_files=2):
    """The parts and fields of a form, and the bytes of its files."""
    form = Form(TYPE, max_files, TOO_MANY)
    data = form.feed(b"".join(parts) + end)
    return form.finish(), form.fields, data


def test_files_and_text_fields_come_apart():
    parts, fields, data = parsed(
        text("format", "webp"), file(b"one", "ü.png"), text("strength", "0.5"), file(b"two")
    )

    assert parts == (Part("ü.png", 0, 3), Part("a.png", 3, 3))
    assert fields == {"format": "webp", "strength": "0.5"}
    assert data == b"onetwo"


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ("name=\"image\"; filename*=UTF-8''gr%C3%BCn.png", "grün.png"),
        ("name=\"image\"; filename*=utf-8'de'a%20b.png", "a b.png"),
        ("name=\"image\"; filename*=iso-8859-1''gr%FCn.png", "grün.png"),
        ('name="image"; filename*0=a; filename*1=b.png', "ab.png"),
        ("name=\"image\"; filename*=no-charset''a.png", "a.png"),
        ('name="image"; filename="plain.png"; filename*=UTF-8\'\'other.png', "plain.png"),
        ("filename*=UTF-8''a.png; name=image", "a.png"),
    ],
)
def test_a_name_may_come_in_the_extended_notation(disposition, name):
    parts, _, data = parsed(part(b"image", disposition))

    assert (parts, data) == ((Part(name, 0, 5),), b"image")


def test_what_a_browser_adds_is_left_out():
    untouched = part(b"", 'name="second"; filename=""', "Content-Type: application/octet-stream")

    parts, fields, _ = parsed(file(), untouched, text("_charset_", "utf-8"))

    assert (len(parts), fields) == (1, {})


def test_a_field_may_come_twice_with_one_value():
    assert parsed(file(), text("format", "png"), text("format", "png"))[1] == {"format": "png"}


@pytest.mark.parametrize(
    ("parts", "error", "words"),
    [
        ([text("image", "a.png")], WrongField, "is text, not a file: it has no file name. .* -F image=@FILE"),
        ([file(), file(field="mask")], WrongField, "a file in the field 'mask'. Send files in the field 'image'"),
        ([file(), text("model", "a"), text("model", "b")], WrongField, "'model' twice, as 'a' and as 'b'"),
        ([file(), text("model", "a" * 1001)], WrongField, "'model' has more than 1000 bytes of text"),
        ([text(f"{number}", "") for number in range(MAX_FIELDS + 1)], WrongField, "more than 100 text fields"),
        ([part(b"image", 'filename="a.png"')], BrokenForm, "has no name"),
        (
            [part(b"aW1hZ2U=", 'name="image"; filename="a.png"', "Content-Transfer-Encoding: base64")],
            EncodedPart,
            "Content-Transfer-Encoding 'base64', which is for e-mail",
        ),
        ([file(), file(), file()], ProblemError, "too many files"),
    ],
)
def test_a_form_that_is_not_understood_is_refused(parts, error, words):
    with pytest.raises(error, match=words):
        parsed(*parts)


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        (
            "multipart/form-data; boundary=other",
            file() + b"--cut--\r\n",
            "Content-Type is 'other', but the body begins with the boundary 'cut'. Send the same one in both",
        ),
        (
            "multipart/form-data; boundary=cutter",
            file() + b"--cut--\r\n",
            "is 'cutter', but the body begins with the boundary 'cut'",
        ),
        (TYPE, file().replace(b"\r\n", b"\n"), "its lines end with LF. End each line .* with CR LF"),
        (
            TYPE,
            file().replace(b"\r\n\r\n", b"\n\n") + b"--cut--\r\n",
            "its lines end with LF. End each line .* with CR LF",
        ),
        (
            TYPE,
            b"no form",
            "The body must begin with --cut, .* and end with CR LF, --cut and --. .* curl -F image=@",
        ),
        ("multipart/form-data", b"", "has no boundary. Leave the Content-Type to your HTTP library, or send "),
    ],
)
def test_a_form_that_cannot_be_parsed_says_what_to_do(content_type, body, words):
    with pytest.raises(BrokenForm, match=f"The form cannot be parsed: .*{words}"):
        Form(content_type, 2, TOO_MANY).feed(body)


@pytest.mark.parametrize("end", [b"", b"--cut", b"--cut-"])
def test_a_form_without_its_last_boundary_is_cut_short(end):
    with pytest.raises(BrokenForm, match="cut short: its final boundary is missing"):
        parsed(file(), end=end)


@pytest.mark.parametrize("encoding", ["binary", "8bit", "7BIT"])
def test_plain_transfer_encodings_are_accepted(encoding):
    sent = part(b"image", 'name="image"; filename="a.png"', f"Content-Transfer-Encoding: {encoding}")

    assert parsed(sent)[2] == b"image"
