"""POST /denoise: one image in, the same image without its noise out."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from engine.imageio.formats import FORMATS, WRITTEN
from service.api.content_negotiation import acceptable
from service.auth.dependencies import owner
from service.params import DenoiseParams
from service.problems import BUSY_ERRORS, describe_problems
from service.runtime.pipeline import Denoised, Denoiser
from service.runtime.upload import PICTURE, PICTURE_BODY, until_gone

_CLEAN = {
    "description": "The image without its noise.",
    "content": {FORMATS[name].media_type: {"schema": PICTURE} for name in WRITTEN},
    "headers": {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in {
            "X-Denoise-Model": "The model's name, percent-encoded.",
            "X-Denoise-Digest": "SHA-256 of its weights.",
            "X-Denoise-Precision": "The type its products ran in.",
            "X-Denoise-Seconds": "How long the image took, without its upload and the wait for its turn.",
            "X-Denoise-Noise": "What noise was found, where the model was chosen by it.",
            "X-Denoise-Changed": "What this format could not hold of the image, if there is anything.",
        }.items()
    },
}
_ERRORS = describe_problems(
    {
        400: "No image, or a broken one.",
        404: "No such model.",
        406: "No format that is accepted is written.",
        413: "Too many bytes, pixels or pages, or too much memory.",
        415: "A kind of image that is not taken.",
        422: "A form without the field, a parameter out of its range, a format that cannot hold the image, or "
        "a file that takes too long to decode.",
        **BUSY_ERRORS,
    }
)

router = APIRouter()


class Answer(Response):
    """Keeps the image until all of it is sent, and as long the schedule counts its memory."""

    def __init__(self, made: Denoised) -> None:
        super().__init__(made.written.data, media_type=made.written.kind.media_type, headers=made.headers)
        self._made = made


@router.post("/denoise", response_class=Response, responses={200: _CLEAN, **_ERRORS}, openapi_extra=PICTURE_BODY)
async def post_denoise(request: Request, params: Annotated[DenoiseParams, Query()]) -> Response:
    """Return an image of the same size without its noise."""
    denoiser: Denoiser = request.state.denoiser
    denoiser.refuse_unknown(params)
    if params.format is None:
        params.format = acceptable(request.headers.get("accept"))
    charge = request.state.keys.charging(owner(request))
    with denoiser.receiving(request) as image:
        # It gets no name here, which would keep it until the end.
        made = await denoiser.file(await image(), params, partial(until_gone, request), charge)
    return Answer(made)
