"""A denoised picture as what is answered."""

from fastapi import Response

from service.denoising import Denoised


class Answer(Response):
    """Keeps the picture until all of it is sent, and as long the schedule counts its memory."""

    def __init__(self, made: Denoised) -> None:
        super().__init__(made.written.data, media_type=made.written.kind.media_type, headers=made.headers)
        self._made = made
