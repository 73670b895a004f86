"""Parameters of requests: in the query, or in the fields of a form. `denoise run` takes most as options too."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from engine import defaults
from engine.imageio.formats import SAME, WRITABLE_FORMATS, format_name
from engine.inference.denoise import OutputOptions


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
        defaults.LUMA, ge=defaults.MIN_SHARE, le=defaults.MAX_SHARE, description=defaults.LUMA_HELP
    )
    chroma: float = Field(
        defaults.CHROMA, ge=defaults.MIN_SHARE, le=defaults.MAX_SHARE, description=defaults.CHROMA_HELP
    )
    grain: float = Field(
        defaults.GRAIN, ge=defaults.MIN_SHARE, le=defaults.MAX_SHARE, description=defaults.GRAIN_HELP
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


class AdaptParams(BaseModel):
    """The parameters of an adaptation. `denoise adapt` takes options with the same meaning."""

    minutes: float | None = Field(
        None,
        ge=0.01,
        allow_inf_nan=False,
        description="For task adapt: training time. It ends sooner when nothing is gained any more. Default: 30, "
        "or the most that the service allows.",
    )
    kind: Literal["auto", "pair", "burst", "stack", "mean", "single"] = Field(
        "auto", description="For task adapt: what the shots are, in place of what is found."
    )
    start: str = Field(
        "auto",
        max_length=100,
        description="For task adapt: the weights to begin from, a name from /models, or auto, which tries some.",
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="For task adapt: decides which scenes are held out, and all other chance."
    )
    name: str = Field(
        "adapted",
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$",
        description="For task adapt: name of the weights, without .safetensors.",
    )


class JobParams(AdaptParams, DenoiseParams):
    """The parameters of a job: its task, and those of the task."""

    task: Literal["denoise", "adapt"] = Field(
        "denoise",
        description="denoise: denoise the images. adapt: train weights for the noise of the shots in a zip.",
    )

    @property
    def denoising(self) -> DenoiseParams:
        """Those of the task denoise."""
        return DenoiseParams.model_validate(self.model_dump(include=set(DenoiseParams.model_fields)))

    @property
    def adapting(self) -> AdaptParams:
        """Those of the task adapt."""
        return AdaptParams.model_validate(self.model_dump(include=set(AdaptParams.model_fields)))

    @property
    def misplaced(self) -> Iterator[str]:
        """Names of parameters that were changed but belong to the other task."""
        other: type[BaseModel] = DenoiseParams if self.task == "adapt" else AdaptParams
        for name, field in other.model_fields.items():
            if getattr(self, name) != field.default:
                yield name


class PageParams(BaseModel):
    """The parameters of a request that reads one page of a file."""

    page: int | None = Field(
        None,
        ge=1,
        description="Page of the file, or frame of the animation, counted from 1. Default: the first.",
    )
    view: str | None = Field(
        None,
        max_length=100,
        description="Name of a view, from the header X-Denoise-View of POST /preview, in place of the file: "
        "the body may then be empty. The service keeps it for some minutes. Give it in the query.",
    )


# In the file's own units.
Point = Annotated[float, Field(allow_inf_nan=False)] | Literal["auto"]


class PreviewParams(PageParams):
    """The parameters of a preview. Without any, it is the whole page in its own depth."""

    crop: str | None = Field(
        None,
        pattern=r"^\d{1,9},\d{1,9},\d{1,9},\d{1,9}$",
        description="Part of the page, in its pixels: left,top,width,height. Default: all of it.",
    )
    side: int | None = Field(
        None, ge=1, description="Most pixels of the longer side. The part is reduced by a whole number to fit."
    )
    reduction: int | None = Field(
        None, ge=1, le=1024, description="Whole number that both sides are divided by, in place of `side`."
    )
    black: Point | None = Field(
        None,
        description="Sample that is shown as black, in the file's units, or auto. With black or white, the "
        "answer has 8 bits a channel; a point that is not given is automatic.",
    )
    white: Point | None = Field(None, description="Sample that is shown as white, in the file's units, or auto.")
    output: Literal["noisy", "clean", "compare"] = Field(
        "noisy",
        description="noisy: the image as it is. clean: without its noise. compare: both, side by side.",
    )
    model: str | None = Field(None, description="As for POST /denoise. For clean and compare.")
    force: bool = Field(False, description=defaults.CLEAN_HELP)
    strength: float = Field(
        defaults.STRENGTH,
        ge=defaults.STRENGTH,
        le=defaults.MAX_STRENGTH,
        description="As for POST /denoise, from 1 on: less is a mixture of both images.",
    )
    grain: float = Field(
        defaults.GRAIN, ge=defaults.MIN_SHARE, le=defaults.MAX_SHARE, description=defaults.GRAIN_HELP
    )

    @property
    def options(self) -> OutputOptions:
        """What is asked of the engine."""
        return OutputOptions(strength=self.strength, grain=self.grain)

    @property
    def whole(self) -> DenoiseParams:
        """The parameters with which POST /denoise gives the same image whole."""
        return DenoiseParams.model_validate(self.model_dump(include={"model", "force", "strength", "grain"}))
