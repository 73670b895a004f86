"""Parameters of requests: in the query, or in the fields of a form. `denoise run` takes most as options too."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from engine import defaults
from engine.imageio.formats import SAME, WRITABLE_FORMATS, format_name


class DenoiseParams(BaseModel):
    """The parameters of a denoising request. `denoise run` takes options of the same names."""

    model: str | None = Field(
        None, description="A name from /models. auto and auto-large choose by the noise in the image."
    )
    format: Annotated[str, AfterValidator(format_name)] | None = Field(
        None,
        description=f"Format of the result; {SAME} keeps the format of the upload. Default: the Accept header "
        "of a single image, else PNG.",
        json_schema_extra={"enum": [*WRITABLE_FORMATS, SAME]},
    )
    quality: int | None = Field(
        None, ge=defaults.MIN_QUALITY, le=defaults.MAX_QUALITY, description=defaults.QUALITY_HELP
    )
    strength: float = Field(
        defaults.STRENGTH,
        ge=defaults.MIN_STRENGTH,
        le=defaults.MAX_STRENGTH,
        description=defaults.STRENGTH_HELP,
    )
    luma: float = Field(
        defaults.LUMA, ge=defaults.MIN_STRENGTH, le=defaults.MAX_STRENGTH, description=defaults.LUMA_HELP
    )
    chroma: float = Field(
        defaults.CHROMA, ge=defaults.MIN_STRENGTH, le=defaults.MAX_STRENGTH, description=defaults.CHROMA_HELP
    )
    output: defaults.Output = Field(defaults.OUTPUT, description=defaults.OUTPUT_HELP)
    page: int | None = Field(None, ge=1, description=defaults.PAGE_HELP)
    colour: defaults.Colour = Field(defaults.COLOUR, description=defaults.COLOUR_HELP)
    normalise: defaults.Switch = Field(defaults.NORMALISE, description=defaults.NORMALISE_HELP)
    impulses: defaults.Switch = Field(defaults.IMPULSES, description=defaults.IMPULSES_HELP)
    banding: defaults.Switch = Field(defaults.BANDING, description=defaults.BANDING_HELP)
    force: bool = Field(False, description=defaults.CLEAN_HELP)

    @property
    def target(self) -> str:
        """The format to write, or SAME."""
        return defaults.FORMAT if self.format is None else self.format


class PageParams(BaseModel):
    """The parameters of a request that reads one page of a file."""

    page: int | None = Field(
        None,
        ge=1,
        description="Page of the file, or frame of the animation, counted from 1. Default: the first.",
    )
