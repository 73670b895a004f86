"""POST /estimate: measures the noise of an image without denoising it."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from math import isfinite
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from engine.inference.model_selection import AUTO, Choice
from engine.inference.noise_estimation import NoiseEstimate, sentence
from engine.inference.noise_estimation.noise_law import Interval as LawInterval
from engine.inference.noise_estimation.noise_law import LawEstimate
from service.params import PageParams
from service.problems import BUSY_ERRORS, describe_problems
from service.runtime.parameters import with_fields
from service.runtime.preview import Previewer
from service.runtime.upload import image_body, until_disconnected
from service.runtime.views import opened_view

Correlation = Annotated[float, Field(ge=-1, le=1)]
Sigma = Annotated[float, Field(ge=0)]
# Fields that have the same name and form in the engine's estimate.
_EQUAL_NAMES = frozenset(("sigma", "luma", "chroma", "correlated", "flat", "jpeg_blocks", "white", "range"))
_ERRORS = describe_problems(
    {
        400: "Not an image, or a broken one.",
        404: "No such view: send the file again.",
        413: "Too many bytes or pixels, or too much memory needed.",
        415: "An unsupported kind of image, or of compression of the body.",
        422: "A form without the field, an unknown or invalid parameter, a missing page, or a file that takes "
        "too long to decode.",
        **BUSY_ERRORS,
    }
)

router = APIRouter(tags=["images"])


class Component(BaseModel):
    """The noise of brightness or of colour."""

    sigma: Sigma = Field(description="Standard deviation, on the scale of 0 to 255.")
    correlation: tuple[Correlation, Correlation, Correlation] = Field(
        description="Correlation of pixels that are 1, 2 and 3 apart: 0 for white noise, 1 for equal noise."
    )


class Level(BaseModel):
    """The noise at one brightness."""

    brightness: float = Field(description="On the scale of 0 to 255.")
    sigma: Sigma = Field(description="Standard deviation, on the scale of 0 to 255.")


class Interval(BaseModel):
    """An interval that holds the truth in 95 % of cases."""

    low: float | None = Field(description="Null if there is no bound.")
    high: float | None = Field(description="Null if there is no bound.")


class Law(BaseModel):
    """Noise whose variance grows with brightness: gain * (x - pedestal) + read_noise^2, in the file's units."""

    gain: float = Field(ge=0, description="How much one photon adds.")
    pedestal: float = Field(description="The value of no light.")
    read_noise: float = Field(ge=0, description="Standard deviation of the noise without light.")
    gain_interval: Interval
    pedestal_interval: Interval
    read_noise_interval: Interval

    @classmethod
    def of(cls, found: LawEstimate) -> "Law":
        """From the engine's estimate."""
        law = found.law
        return cls(
            gain=law.gain,
            pedestal=law.pedestal,
            read_noise=law.read_variance**0.5,
            gain_interval=_interval(found.gain),
            pedestal_interval=_interval(found.pedestal),
            read_noise_interval=_interval(found.read_noise),
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
    white: float = Field(description="The sample that is white, in the file's units: what 255 stands for.")
    range: tuple[float, float] = Field(description="Between these lie nearly all samples, in the file's units.")
    sigma_in_units: Sigma = Field(description="Mean level over the channels, in the file's units. 0 if unknown.")
    sigma_of_range: Sigma = Field(description="The same, as a share of the range.")
    levels: list[Level] = Field(description="Noise by brightness, from dark to bright, where it can be measured.")
    laws: list[Law] = Field(
        description="Of each channel, if the noise grows with brightness as photons' does. Otherwise empty."
    )
    model: str | None = Field(
        description="The model that `auto` chooses for the image. Null if the service has no `auto`."
    )
    models: dict[str, str] = Field(
        description="The model that `auto` chooses, and likewise for `auto-large`, by these names."
    )
    reason: str | None = Field(
        description="Why `auto` chooses that model, for people: for adapted weights, how near the noise is to "
        "theirs; otherwise also what keeps the nearest adapted weights from being chosen, if there are any."
    )

    @classmethod
    def of(cls, found: NoiseEstimate, choices: Mapping[str, Choice]) -> "Estimate":
        """From the engine's estimate. choices: by the names of the auto models."""
        models = {name: choice.name for name, choice in choices.items()}
        return cls(
            words=sentence(found),
            model=models.get(AUTO),
            models=models,
            reason=choices[AUTO].reason if AUTO in choices else None,
            levels=[Level(**asdict(level)) for level in found.noise_level_function],
            laws=[Law.of(law) for law in found.laws],
            sigma_in_units=found.sigma_in_units,
            sigma_of_range=found.sigma_of_range,
            **{name: value for name, value in asdict(found).items() if name in _EQUAL_NAMES},
        )


@router.post(
    "/estimate",
    operation_id="estimate_noise",
    summary="Measure the noise of an image",
    responses=_ERRORS,
    openapi_extra=image_body(PageParams),
)
async def post_estimate(request: Request, params: Annotated[PageParams, Query()]) -> Estimate:
    """Measure the noise of an image, and tell which model suits it."""
    previewer: Previewer = request.state.previewer
    async with opened_view(request, params.view, keep=False) as (view, fields):
        page = with_fields(params, request, fields).page or 1
        estimate, choices = await previewer.estimate(view, page, partial(until_disconnected, request))
    return Estimate.of(estimate, choices)


def _interval(found: LawInterval) -> Interval:
    low, high = (end if isfinite(end) else None for end in (found.low, found.high))
    return Interval(low=low, high=high)
