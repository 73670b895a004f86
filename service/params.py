"""How an image is wanted back: the parameters of POST /denoise, which are options of `denoise run` as well."""

from typing import Literal

from pydantic import BaseModel, Field

from engine.imageio.formats import SAME, WRITABLE_FORMATS

# What is written where nobody says.
DEFAULT = "png"
Shown = Literal["clean", "residual", "compare"]


class DenoiseParams(BaseModel):
    """How the image is wanted back. `denoise run` has them under the same names."""

    model: str | None = Field(
        None, description="A name that /models lists; auto and auto-large choose by the noise."
    )
    format: str | None = Field(
        None,
        description=f"What to write; {SAME} is the format that came. Without it PNG, unless the Accept header of "
        "a single image says otherwise.",
        json_schema_extra={"enum": [*WRITABLE_FORMATS, SAME]},
    )
    quality: int | None = Field(
        None, ge=1, le=100, description="Of JPEG, WebP and AVIF. Without it, WebP is lossless."
    )
    strength: float = Field(1, ge=0, le=1, description="Part of the noise found that is taken away.")
    luma: float = Field(1, ge=0, le=1, description="The same, of brightness alone; strength multiplies it.")
    chroma: float = Field(1, ge=0, le=1, description="The same, of colour alone; strength multiplies it.")
    output: Shown = Field(
        "clean", description="The clean image, what was removed on mid-grey, or before and after side by side."
    )
    page: int | None = Field(None, ge=1, description="Only this page, or frame of an animation, counted from 1.")

    @property
    def target(self) -> str:
        """The format to write, or SAME."""
        return DEFAULT if self.format is None else self.format
