"""How an image is wanted back: the parameters of POST /denoise, which are options of `denoise run` as well."""

from pydantic import BaseModel, Field

from engine import defaults
from engine.imageio.formats import SAME, WRITTEN


class DenoiseParams(BaseModel):
    """How the image is wanted back. `denoise run` has them under the same names."""

    model: str | None = Field(
        None, description="A name that /models lists; auto and auto-large choose by the noise."
    )
    format: str | None = Field(
        None,
        description=f"What to write; {SAME} is the format that came. Without it PNG, unless the Accept header of "
        "a single image says otherwise.",
        json_schema_extra={"enum": [*WRITTEN, SAME]},
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

    @property
    def target(self) -> str:
        """The format to write, or SAME."""
        return defaults.FORMAT if self.format is None else self.format
