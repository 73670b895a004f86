"""Forms: takes a `multipart/form-data` body apart as it arrives.

Sources: RFC 7578, "Returning Values from Forms: multipart/form-data"; RFC 5987 for `filename*`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.message import Message

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.problems import ProblemError

# The field of the files.
FIELD = "image"
# Limits on the text of a form: on the value of one field, in bytes, and on the number of fields.
MAX_VALUE_BYTES = 1000
MAX_FIELDS = 100
# A sentence has room for this many names.
NAMED_FIELDS = 10
# A part's bytes are the file's bytes only with these. Others, like base64, are of e-mail.
PLAIN_ENCODINGS = ("binary", "8bit", "7bit")
# Bytes from the beginning of a body by which a form is recognised.
HEAD_BYTES = 1000
# A boundary, and the first header of a part.
_FORM_HEAD = re.compile(rb"\s*--([^\r\n]{1,200}?)[ \t]*\r?\n(?i:content-)")
_LONE_LF = re.compile(rb"(?<!\r)\n")
_FORM_TYPE = "multipart/form-data"
# Text that a browser adds about the form itself.
_ABOUT_FORM = "_charset_"


class WrongField(ProblemError):
    """A form without a file in the field `image`, or with fields that are not understood."""

    status = 422


class BrokenForm(ProblemError):
    """A form that cannot be parsed."""


class EncodedPart(ProblemError):
    """A file of a form that is encoded as in an e-mail."""

    status = 415


@dataclass(frozen=True)
class Part:
    """Where a file of the upload lies in the stored upload, in bytes. name: None for a body that is no form."""

    name: str | None
    start: int
    size: int


def is_form(request: Request) -> bool:
    """Whether the request's headers announce a form that may hold files."""
    return request.headers.get("content-type", "").lower().startswith(_FORM_TYPE)


def refuse_unannounced_form(content_type: str | None, head: bytes) -> None:
    """Raises BrokenForm if the beginning of a body that was not announced as a form looks like one."""
    if found := _FORM_HEAD.match(head):
        said = f"its Content-Type is {content_type[:200]!r}" if content_type else "it has no Content-Type"
        raise BrokenForm(
            f"The body looks like a form, but {said}. Send it with Content-Type: {_FORM_TYPE}; "
            f"boundary={_decoded(found[1])}."
        )


class Form:
    """A form that is parsed as it arrives.

    fields: its text fields, by name.
    """

    def __init__(self, content_type: str, max_files: int, too_many: ProblemError) -> None:
        """too_many: raised for a form of more than max_files files. Raises BrokenForm without a boundary."""
        self.fields: dict[str, str] = {}
        self._max_files = max_files
        self._too_many = too_many
        # The header line, the headers of the part, and the part's text, as far as they have arrived.
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._text = bytearray()
        # The name of the text field that arrives, or None for a file.
        self._field: str | None = None
        self._in_image = False
        self._data = bytearray()
        self._size = 0
        self._parts: list[Part] = []
        # The names of fields that hold no image.
        self._other_files: dict[str, None] = {}
        self._ended = False
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise BrokenForm(
                "The form cannot be parsed: its Content-Type has no boundary. Leave the Content-Type to your "
                f"HTTP library, or send {_FORM_TYPE}; boundary= and the boundary of the body."
            )
        self._boundary = boundary
        self._head = b""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_part,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise BrokenForm(f"The form cannot be parsed: {error}.") from error

    def feed(self, chunk: bytes) -> bytes:
        """Parses the next bytes. Returns those that belong to files of the image field.

        Raises WrongField, BrokenForm, EncodedPart, or the error for too many files.
        """
        self._data = bytearray()
        if len(self._head) < HEAD_BYTES:
            self._head += chunk[:HEAD_BYTES]
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise BrokenForm(f"The form cannot be parsed: {self._fault(str(error))}") from error
        return bytes(self._data)

    def finish(self) -> tuple[Part, ...]:
        """Its files. Raises BrokenForm if the form's end has not come, WrongField if the files are not images."""
        if not self._ended:
            raise BrokenForm(
                "The form is cut short: its final boundary is missing. It must end with CR LF, --, the boundary "
                "and --."
            )
        others = list(self._other_files)[:NAMED_FIELDS]
        if not self._parts:
            names = ", ".join([*others, *self.fields][:NAMED_FIELDS]) or "nothing"
            raise WrongField(f"The form's file field {FIELD!r} is missing; the form has: {names}.")
        if others:
            raise WrongField(
                f"The form has a file in the field {others[0]!r}. Send files in the field {FIELD!r}."
            )
        return tuple(self._parts)

    def _fault(self, error: str) -> str:
        """Why the form cannot be parsed, and what to do. error: the parser's words."""
        boundary = _decoded(self._boundary)
        found = _FORM_HEAD.match(self._head)
        if found and found[1] != self._boundary:
            return (
                f"the boundary in its Content-Type is {boundary[:200]!r}, but the body begins with the boundary "
                f"{_decoded(found[1])!r}. Send the same one in both, or leave the Content-Type to your HTTP "
                "library."
            )
        headers = re.split(rb"\r?\n\r?\n", self._head, maxsplit=1)[0]
        if found and _LONE_LF.search(self._head[: len(headers) + 2]):
            return "its lines end with LF. End each line of boundaries and headers with CR LF."
        return (
            f"{error}. The body must begin with --{boundary[:200]}, the boundary in its Content-Type, and end "
            f"with CR LF, --{boundary[:200]} and --. An HTTP library or curl -F {FIELD}=@FILE makes such a form."
        )

    def _end_header(self) -> None:
        name, value = self._header.lower(), bytes(self._value)
        if name == b"content-disposition":
            self._disposition = value
        elif name == b"content-transfer-encoding":
            encoding = value.decode("latin-1").strip()
            if encoding.lower() not in PLAIN_ENCODINGS:
                raise EncodedPart(
                    f"A part of the form has the Content-Transfer-Encoding {encoding[:100]!r}, which is for "
                    "e-mail. Send the bytes of the file as they are."
                )
        self._header.clear()
        self._value.clear()

    def _begin_part(self) -> None:
        options = parse_options_header(self._disposition)[1]
        if b"name" not in options:
            raise BrokenForm("A part of the form has no name in its Content-Disposition.")
        field = _decoded(options[b"name"])[:100]
        filename = _filename(options, self._disposition)
        self._disposition = b""
        self._text.clear()
        self._in_image = field == FIELD
        self._field = field if filename is None else None
        if filename is None:
            self._begin_text(field)
        elif self._in_image:
            if len(self._parts) == self._max_files:
                raise self._too_many
            self._parts.append(Part(filename, self._size, 0))
        elif filename and len(self._other_files) < NAMED_FIELDS:
            # A browser sends a field without a chosen file as an empty file without a name.
            self._other_files[field] = None

    def _begin_text(self, field: str) -> None:
        if field == FIELD:
            raise WrongField(
                f"The form's file field {FIELD!r} is text, not a file: it has no file name. With curl, write "
                f"-F {FIELD}=@FILE."
            )
        if len(self.fields) == MAX_FIELDS:
            raise WrongField(f"The form has more than {MAX_FIELDS} text fields, the limit.")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is not None:
            self._text += data[start:end]
            if len(self._text) > MAX_VALUE_BYTES:
                raise WrongField(
                    f"The form's field {self._field!r} has more than {MAX_VALUE_BYTES} bytes of text, too many "
                    f"for a parameter. Send a file in the field {FIELD!r}, with a file name."
                )
        elif self._in_image:
            self._data += data[start:end]
            self._size += end - start
            self._parts[-1] = replace(self._parts[-1], size=self._size - self._parts[-1].start)

    def _end_part(self) -> None:
        if self._field is None or self._field == _ABOUT_FORM:
            return
        text = _decoded(bytes(self._text))
        if self.fields.setdefault(self._field, text) != text:
            raise WrongField(
                f"The form has the field {self._field!r} twice, as {self.fields[self._field]!r} and as {text!r}. "
                "Send it once."
            )

    def _end(self) -> None:
        self._ended = True


def _filename(options: Mapping[bytes, bytes], disposition: bytes) -> str | None:
    """The name of a part's file; None for text.

    RFC 7578 forbids `filename*`, but some programs send nothing else for a name that is not ASCII.
    """
    if b"filename" in options:
        return _decoded(options[b"filename"])
    if b"filename*" not in disposition.lower():
        return None
    message = Message()
    message["Content-Disposition"] = disposition.decode("latin-1")
    return message.get_filename()


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "replace")
