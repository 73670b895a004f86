"""Zip writer: a zip that is sent while it is made."""

import stat
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from io import BytesIO
from zipfile import ZipFile, ZipInfo

from anyio import to_thread

MEDIA_TYPE = "application/zip"
# The file name of a zip in a response.
NAME = "denoised.zip"
# How much is sent at once, in bytes.
CHUNK = 2**18
# The earliest and the latest time that a file in a zip can have: year to second.
_EARLIEST = (1980, 1, 1, 0, 0, 0)
_LATEST = (2107, 12, 31, 23, 59, 58)


@dataclass(frozen=True)
class ZipMember:
    """A file that goes into a zip, and the comment that the zip keeps about it."""

    name: str
    data: bytes
    comment: str = ""


async def write_zip(members: AsyncGenerator[ZipMember, None]) -> AsyncGenerator[bytes, None]:
    """A zip, in chunks. At most one member is in memory, until its chunks have been taken.

    The last chunk is the zip's directory. If `members` raises, so does this, and what was sent until then is no
    valid zip. Closes `members`.
    """
    unsent = _Unsent()
    # ZipFile writes the directory after an error too, but then it is not sent.
    with ZipFile(unsent, "w") as archive:
        async with aclosing(members):
            while await _add_next(archive, members):
                for chunk in unsent.chunks():
                    yield chunk
    for chunk in unsent.chunks():
        yield chunk


async def _add_next(archive: ZipFile, members: AsyncGenerator[ZipMember, None]) -> bool:
    """Adds the next member, and keeps no reference to it. Returns False if there is none."""
    try:
        member = await anext(members)
    except StopAsyncIteration:
        return False
    # In a thread, because the checksum takes a while.
    await to_thread.run_sync(archive.writestr, _info(member), member.data)
    return True


def _info(member: ZipMember) -> ZipInfo:
    # A machine whose clock has no battery starts in 1970, which a zip cannot hold.
    info = ZipInfo(member.name, min(max(_EARLIEST, time.localtime()[:6]), _LATEST))
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.comment = member.comment.encode()
    return info


class _Unsent(BytesIO):
    """The end of a file that has not been sent yet. Positions are those in the whole file.

    ZipFile goes back to each member's header, to write the checksum there. If it could not, it would write the
    checksum after the member, and whoever unpacks a zip while it arrives could not tell where a member ends.
    """

    _sent = 0

    def tell(self) -> int:
        return self._sent + super().tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        """whence: always 0."""
        return self._sent + super().seek(offset - self._sent, whence)

    def chunks(self) -> Iterator[bytes]:
        """Takes everything out, in chunks."""
        unsent = self.getvalue()
        super().seek(0)
        self.truncate()
        self._sent += len(unsent)
        for start in range(0, len(unsent), CHUNK):
            yield unsent[start : start + CHUNK]
