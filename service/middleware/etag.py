"""Answers that a client may keep, if it asks each time whether they are still so, as headers.py says of all.

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
    """The answer with a tag made of its body; or 304 without the body to who has that one."""
    tag = f'"{hashlib.sha256(response.body).hexdigest()}"'
    response.headers["ETag"] = tag
    if not is_held(request, tag):
        return response
    # The other headers replace those that were kept with the body.
    left_out = ("content-length", "content-type")
    headers = {name: value for name, value in response.headers.items() if name not in left_out}
    return Response(status_code=304, headers=headers)


def is_held(request: Request, tag: str) -> bool:
    """Whether the client has what bears this tag. Proxies that compress have made the tag a weak one."""
    given = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    return tag in given or given == ["*"]


class ETagFiles(StaticFiles):
    """Small files. Their tags are of what they hold: by size and time, two versions may look the same."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """The file, or that the client has it."""
        media_type, _ = mimetypes.guess_type(full_path)
        return with_etag(
            Request(scope), Response(Path(full_path).read_bytes(), status_code, media_type=media_type)
        )
