"""Denoising parameters: the query parameters of POST /denoise, which `denoise run` takes as options too."""

from typing import Literal

from pydantic import BaseModel, Field

from engine.imageio.formats import SAME, WRITTEN

# The format to write if the client names none.
DEFAULT = "png"
Shown = Literal["clean", "residual", "compare"]


class DenoiseParams(BaseModel):
    """The parameters of a denoising request. `denoise run` takes options of the same names."""

    model: str | None = Field(
        None, description="A name from /models. auto and auto-large choose by the noise in the image."
    )
    format: str | None = Field(
        None,
        description=f"Format of the result; {SAME} keeps the format of the upload. Default: the Accept header "
        "of a single image, else PNG.",
        json_schema_extra={"enum": [*WRITTEN, SAME]},
    )
    quality: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Quality of JPEG, WebP and AVIF. Default: JPEG 95, AVIF 85, WebP lossless.",
    )
    strength: float = Field(1, ge=0, le=1, description="Fraction of the noise to remove.")
    luma: float = Field(
        1, ge=0, le=1, description="Fraction of the brightness noise to remove, multiplied by strength."
    )
    chroma: float = Field(
        1, ge=0, le=1, description="Fraction of the colour noise to remove, multiplied by strength."
    )
    output: Shown = Field(
        "clean", description="The clean image, the removed noise on mid-grey, or before and after side by side."
    )
    page: int | None = Field(
        None, ge=1, description="Only this page of a file, or frame of an animation, counted from 1."
    )

    @property
    def target(self) -> str:
        """The format to write, or SAME."""
        return DEFAULT if self.format is None else self.format
