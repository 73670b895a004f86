"""What noise is in an image, asked without denoising it: POST /estimate."""

from dataclasses import asdict
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from engine.inference.model_selection import AUTO
from engine.inference.noise_estimation.estimator import sentence
from service.problems import BUSY, documented
from service.runtime.pipeline import Pipeline
from service.runtime.scheduler import Scheduler
from service.runtime.upload import IMAGE_BODY, receive_upload, until_disconnected

Correlation = Annotated[float, Field(ge=-1, le=1)]
Sigma = Annotated[float, Field(ge=0)]
_ERRORS = documented(
    {
        400: "No image, or a broken one.",
        413: "Too many bytes or pixels, or too much memory.",
        415: "A kind of image that is not taken.",
        422: "A form without the field, a page that is not there, or a file that takes too long to decode.",
        **BUSY,
    }
)

router = APIRouter()


class Component(BaseModel):
    """The noise of brightness, or of colour."""

    sigma: Sigma = Field(description="Standard deviation, on the scale of 0 to 255.")
    correlation: tuple[Correlation, Correlation, Correlation] = Field(
        description="Of pixels 1, 2 and 3 apart: 0 for white noise, 1 for what is the same in all."
    )


class Found(BaseModel):
    """The noise in an image. What nothing can be told of is null."""

    words: str = Field(description="All of it in a sentence.")
    scale: Literal[255] = Field(255, description="What white is, for each sigma.")
    sigma: list[Sigma] | None = Field(
        description="Standard deviation of each channel's noise, red, green and blue or grey alone."
    )
    luma: Component | None = Field(description="Of brightness, the mean of the channels.")
    chroma: Component | None = Field(
        description="Of colour: what channels differ by from their mean. Null for grey."
    )
    correlated: bool | None = Field(
        description="Whether neighbouring pixels share noise, as after a camera's processing; false if white."
    )
    flat: float = Field(
        ge=0,
        le=1,
        description="Share of the image without detail: where it is little, texture may count as noise.",
    )
    jpeg_blocks: bool = Field(description="Whether the image is, or lately was, a JPEG file.")
    model: str | None = Field(description="What `auto` takes for it. Null where `auto` is not served.")
    models: dict[str, str] = Field(
        description="What each model that is a choice takes for it, `auto` among them, by the choice's name."
    )


@router.post("/estimate", responses=_ERRORS, openapi_extra=IMAGE_BODY)
async def post_estimate(
    request: Request,
    page: Annotated[
        int | None, Query(ge=1, description="Look at this page, or frame, counted from 1, not at the first.")
    ] = None,
) -> Found:
    """Tell what noise is in an image, and which model suits it."""
    pipeline: Pipeline = request.state.pipeline
    scheduler: Scheduler = request.state.scheduler
    async with receive_upload(request, scheduler, request.state.settings.max_bytes) as image:
        estimate, models = await pipeline.estimate(image, page or 1, partial(until_disconnected, request))
    return Found(words=sentence(estimate), model=models.get(AUTO), models=models, **asdict(estimate))
