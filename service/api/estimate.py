"""POST /estimate: measures the noise of an image without denoising it."""

from dataclasses import asdict
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from engine.inference.model_selection import AUTO
from engine.inference.noise_estimation import sentence
from service.problems import BUSY_ERRORS, describe_problems
from service.runtime.pipeline import Pipeline
from service.runtime.scheduler import Scheduler
from service.runtime.upload import IMAGE_BODY, receive_upload, until_disconnected

Correlation = Annotated[float, Field(ge=-1, le=1)]
Sigma = Annotated[float, Field(ge=0)]
_ERRORS = describe_problems(
    {
        400: "Not an image, or a broken one.",
        413: "Too many bytes or pixels, or too much memory needed.",
        415: "An unsupported kind of image.",
        422: "A form without the field, a missing page, or a file that takes too long to decode.",
        **BUSY_ERRORS,
    }
)

router = APIRouter()


class Component(BaseModel):
    """The noise of brightness or of colour."""

    sigma: Sigma = Field(description="Standard deviation, on the scale of 0 to 255.")
    correlation: tuple[Correlation, Correlation, Correlation] = Field(
        description="Correlation of pixels that are 1, 2 and 3 apart: 0 for white noise, 1 for equal noise."
    )


class Estimate(BaseModel):
    """The noise of an image. A value that cannot be measured is null."""

    words: str = Field(description="The estimate as a sentence.")
    scale: Literal[255] = Field(255, description="The value of white that every sigma refers to.")
    sigma: list[Sigma] | None = Field(
        description="Standard deviation of the noise of each channel: red, green and blue, or grey."
    )
    luma: Component | None = Field(description="Noise of brightness, which is the mean of the channels.")
    chroma: Component | None = Field(
        description="Noise of colour, which is the difference of each channel from the mean. Null for grey."
    )
    correlated: bool | None = Field(
        description="Whether the noise of neighbouring pixels is correlated, as after processing in a camera."
    )
    flat: float = Field(
        ge=0,
        le=1,
        description="Fraction of the image without detail. If it is small, texture may count as noise.",
    )
    jpeg_blocks: bool = Field(description="Whether the image is, or recently was, a JPEG file.")
    model: str | None = Field(
        description="The model that `auto` chooses for the image. Null if the service has no `auto`."
    )
    models: dict[str, str] = Field(
        description="The model that `auto` chooses, and likewise for `auto-large`, by these names."
    )


@router.post("/estimate", responses=_ERRORS, openapi_extra=IMAGE_BODY)
async def post_estimate(
    request: Request,
    page: Annotated[
        int | None,
        Query(
            ge=1, description="Page of the file, or frame of the animation, counted from 1. Default: the first."
        ),
    ] = None,
) -> Estimate:
    """Measure the noise of an image, and tell which model suits it."""
    pipeline: Pipeline = request.state.pipeline
    scheduler: Scheduler = request.state.scheduler
    async with receive_upload(request, scheduler, request.state.settings.max_bytes) as image:
        estimate, models = await pipeline.estimate(image, page or 1, partial(until_disconnected, request))
    return Estimate(words=sentence(estimate), model=models.get(AUTO), models=models, **asdict(estimate))
