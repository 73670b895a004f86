"""Entity tags: a client that has the current answer gets 304 without a body.

Source: RFC 9110, "HTTP Semantics", sections 8.8.3 and 13.1.2.
"""

import hashlib
import mimetypes
import os
from pathlib import Path

from fastapi import Request, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope


def with_etag(request: Request, response: Response) -> Response:
    """Add a tag made from the body. The answer becomes a 304 without a body if the client has that tag."""
    tag = f'"{hashlib.sha256(response.body).hexdigest()}"'
    response.headers["ETag"] = tag
    if not is_held(request, tag):
        return response
    # The remaining headers replace those that the client stored with the body.
    body_headers = ("content-length", "content-type")
    headers = {name: value for name, value in response.headers.items() if name not in body_headers}
    return Response(status_code=304, headers=headers)


def is_held(request: Request, tag: str) -> bool:
    """Whether the client has this tag. A proxy that compresses answers turns it into a weak tag, W/."""
    tags = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    return tag in tags or tags == ["*"]


class ETagFiles(StaticFiles):
    """Static files with tags made from their content. Size and time may be equal for two versions."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """The file, or 304."""
        media_type, _ = mimetypes.guess_type(full_path)
        return with_etag(
            Request(scope), Response(Path(full_path).read_bytes(), status_code, media_type=media_type)
        )
