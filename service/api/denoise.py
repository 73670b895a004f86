"""POST /denoise: removes the noise from one image."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from engine.imageio.formats import FORMATS, WRITABLE_FORMATS
from service.api.content_negotiation import negotiate_format
from service.auth.dependencies import owner
from service.params import DenoiseParams
from service.problems import BUSY_ERRORS, describe_problems
from service.runtime.pipeline import Denoised, Denoiser
from service.runtime.upload import PICTURE, PICTURE_BODY, until_gone

_CLEAN = {
    "description": "The denoised image.",
    "content": {FORMATS[name].media_type: {"schema": PICTURE} for name in WRITABLE_FORMATS},
    "headers": {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in {
            "X-Denoise-Model": "The model's name, percent-encoded.",
            "X-Denoise-Digest": "SHA-256 of the weights.",
            "X-Denoise-Precision": "The type that the network computed in.",
            "X-Denoise-Seconds": "Seconds of work on the image, without the upload and the wait in the queue.",
            "X-Denoise-Noise": "The noise that was found, if the model was chosen by it.",
            "X-Denoise-Changed": "What was lost because the format cannot hold it, if anything.",
        }.items()
    },
}
_ERRORS = describe_problems(
    {
        400: "Not an image, or a broken one.",
        404: "No such model.",
        406: "The service writes none of the accepted formats.",
        413: "Too many bytes, pixels or pages, or too much memory needed.",
        415: "An unsupported kind of image.",
        422: "A form without the field, an invalid parameter, a format that cannot hold the image, or a file "
        "that takes too long to decode.",
        **BUSY_ERRORS,
    }
)

router = APIRouter()


class ImageResponse(Response):
    """Holds the image until it is sent. The scheduler counts its memory until then."""

    def __init__(self, denoised: Denoised) -> None:
        written = denoised.written
        super().__init__(written.data, media_type=written.kind.media_type, headers=denoised.headers)
        self._denoised = denoised


@router.post("/denoise", response_class=Response, responses={200: _CLEAN, **_ERRORS}, openapi_extra=PICTURE_BODY)
async def post_denoise(request: Request, params: Annotated[DenoiseParams, Query()]) -> Response:
    """Denoise an image. The result has the same size."""
    denoiser: Denoiser = request.state.denoiser
    denoiser.refuse_unknown(params)
    if params.format is None:
        params.format = negotiate_format(request.headers.get("accept"))
    charge = request.state.api_keys.charger(owner(request))
    with denoiser.receiving(request) as image:
        # The upload gets no name here: a name would keep it in memory until the end.
        denoised = await denoiser.file(await image(), params, partial(until_gone, request), charge)
    return ImageResponse(denoised)
