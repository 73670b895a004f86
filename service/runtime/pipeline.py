"""Pipeline: takes an image file through its stages: decode, choose a model, denoise, encode."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import quote

from engine.defaults import FORMAT
from engine.imageio.formats import FORMATS, Depth, Format, output_format
from engine.imageio.image import EncodedImage, Image, ImageInfo, ImageSequence
from engine.imageio.sandbox.decoder import Decoder
from engine.inference.denoise import DEFAULT_OUTPUT, OutputOptions
from engine.inference.model_selection import AUTO_MODELS
from engine.inference.mosaic import (
    DEVELOPED_MODEL,
    MOSAIC_MODEL,
    requested_share,
    steps_after_mosaic,
)
from engine.inference.noise_estimation import Component, NoiseEstimate, summary
from engine.inference.preparation import (
    PreparationOptions,
    finer_allowed,
    prepare_pages,
    words_of,
)
from engine.models.checkpoint import Model
from service.params import DenoiseParams
from service.registry.snapshot import Snapshot
from service.runtime.scheduler import Disconnected, Scheduler
from service.runtime.stages import DecodeStage, DenoiseStage, EncodeStage
from service.runtime.ticket import Load, MemoryShare, Ticket
from service.runtime.upload import ImageSource
from service.settings import Settings
from service.telemetry.metrics import Metrics

# The most memory that a pixel takes from file to file, in bytes, by the depth of its samples. Measured on noise,
# all processes together: 8 bits take 10, with transparency 12; 16 bits with transparency take 27; from 8 bits to
# WebP, it is 43. In one process it was up to twice that.
PIXEL_BYTES: Mapping[Depth, int] = {"8": 20, "16": 40, "float": 60}
# What the encoders of some formats take in addition, in bytes a pixel.
ENCODER_BYTES = {"webp": 40, "avif": 40}
# What further passes of the network take in addition, in bytes a pixel: the inputs of two as floats.
FURTHER_PASSES_BYTES = 24
# What every browser can show, with 16 bits.
PREVIEW_FORMAT = "png"


def refuse_unknown(params: DenoiseParams, models: Snapshot) -> None:
    """Raises ProblemError (404) for an unknown model, CannotWrite for an unknown format.

    Call it before the image is read.
    """
    models.resolve_name(params.model)
    output_format(params.target, FORMATS[FORMAT])


@dataclass(frozen=True)
class DenoisedFile:
    """A denoised image file, and how it was made. estimate: the noise found. steps: of the preparation."""

    written: EncodedImage
    model: Model
    precision: str
    estimate: NoiseEstimate
    steps: tuple[str, ...]
    seconds: float

    @property
    def headers(self) -> dict[str, str]:
        """Response headers that describe it."""
        headers = {
            "X-Denoise-Model": quote(self.model.name),
            "X-Denoise-Digest": self.model.digest,
            "X-Denoise-Precision": self.precision,
            "X-Denoise-Seconds": f"{self.seconds:.3f}",
            "X-Denoise-Noise": summary(self.estimate),
            "X-Denoise-Estimate": _numbers(self.estimate),
        }
        if self.steps:
            headers["X-Denoise-Steps"] = "; ".join(self.steps)
        if self.written.changed:
            headers["X-Denoise-Changed"] = "; ".join(self.written.changed)
        return headers


@dataclass(frozen=True)
class Pipeline:
    """The stages, and what connects them. models: gives the models in service when it is called.

    accepted, low_priority: passed to Scheduler.admit.
    """

    models: Callable[[], Snapshot]
    scheduler: Scheduler
    decoding: DecodeStage
    denoising: DenoiseStage
    encoding: EncodeStage
    metrics: Metrics
    accepted: bool = False
    low_priority: bool = False

    @classmethod
    def build(
        cls,
        models: Callable[[], Snapshot],
        scheduler: Scheduler,
        decoder: Decoder,
        settings: Settings,
        metrics: Metrics,
    ) -> "Pipeline":
        """With the limits in the settings."""
        decoding = DecodeStage(decoder, settings.max_pixels, settings.max_pages)
        encoding = EncodeStage(settings.png_level)
        return cls(models, scheduler, decoding, DenoiseStage(settings.memory_budget), encoding, metrics)

    def for_one_request(self) -> "Pipeline":
        """For a request of several files: all get the models in service now, and all are admitted."""
        models = self.models()
        return replace(self, models=lambda: models, accepted=True)

    def with_low_priority(self) -> "Pipeline":
        """For long work, which lets others go first."""
        return replace(self, low_priority=True)

    async def denoise(
        self,
        source: ImageSource,
        params: DenoiseParams,
        memory: MemoryShare,
        disconnected: Disconnected,
        charge: Callable[[int], None],
        on_progress: Callable[[float], None] = lambda share: None,
    ) -> DenoisedFile:
        """The file, denoised.

        memory: holds the result's bytes when this returns; the caller releases it when they are sent.
        disconnected: as Scheduler.admit.
        charge: called with the number of the file's pixels before they are denoised; see ApiKeys.charger.
        on_progress: called after each window with the share of the file's pixels that is denoised, up to 1.
        Raises ProblemError (404) for an unknown model, and what the stages raise.
        """
        models = self.models()
        name = models.resolve_name(params.model)
        info = await self.decoding.read_info(source, params.page, params.colour)
        kind = output_format(params.target, info.kind)
        options = OutputOptions(params.strength, params.luma, params.chroma, params.output, params.grain)
        load = _load(info, source.memory, kind, options)
        progress = _Progress(load.pixels, on_progress)
        lap = self.metrics.laps()
        async with self.scheduler.admit(disconnected, load, self.accepted, self.low_priority) as ticket:
            lap("wait")
            file, mosaic_words = await self._read(ticket, source, params, info, options, charge)
            lap("decode")
            # Only the list keeps the decoded pages: each makes room for its denoised page.
            pages = list(file.pages)
            file = replace(file, pages=())
            # One page decides for all, because they come from one camera. All get the same weights, even if
            # others are put in service meanwhile.
            samples = [page.samples for page in pages]
            name = DEVELOPED_MODEL if mosaic_words else name
            model, estimate = await ticket.in_thread(partial(self.models().choose, name, samples))
            steps = _steps(params, kind, pages)
            if mosaic_words:
                steps = steps_after_mosaic(steps)
            prepared = await ticket.in_thread(partial(prepare_pages, samples, estimate, steps))
            samples.clear()
            await self.denoising.denoise(ticket, model, pages, options, prepared, progress.add)
            lap("denoise", model.name)
            self.scheduler.rest_network()
            file = replace(file, pages=tuple(pages))
            written = await self.encoding.encode(ticket, file, kind, params.quality)
            lap("encode", model.name)
            ticket.keep(memory, len(written.data))
        self.metrics.image(model, info.pixels)
        words = (*mosaic_words, *words_of(prepared))
        return DenoisedFile(written, model, models.precision, estimate, words, ticket.seconds)

    async def _read(
        self,
        ticket: Ticket,
        source: ImageSource,
        params: DenoiseParams,
        info: ImageInfo,
        options: OutputOptions,
        charge: Callable[[int], None],
    ) -> tuple[ImageSequence, tuple[str, ...]]:
        """The file's pages, and in words what was done to the mosaic of a camera raw file before developing."""
        models = self.models()
        share = requested_share(options, PreparationOptions(normalise=params.normalise == "auto"))
        if info.kind.name == "raw" and models.resolve_name(params.model) in AUTO_MODELS and share:
            known = await self.decoding.read_mosaic(ticket, source) if params.page in (None, 1) else None
            if known:
                charge(info.pixels)
                mosaic, law = known
                model = await ticket.in_thread(models.by_name[MOSAIC_MODEL].model)
                values = await self.denoising.denoise_mosaic(ticket, model, mosaic, law, share)
                if values is not None:
                    return await self.decoding.develop(ticket, source, values, params.colour), (law.words,)
                return await self.decoding.decode(ticket, source, params.page, params.colour), ()
        file = await self.decoding.decode(ticket, source, params.page, params.colour)
        charge(info.pixels)
        return file, ()

    async def preview(
        self, source: ImageSource, page: int, memory: MemoryShare, disconnected: Disconnected
    ) -> EncodedImage:
        """A page, counted from 1, as PNG. memory, disconnected: as `denoise`.

        Raises what the decode and encode stages and Scheduler.admit raise.
        """
        kind = FORMATS[PREVIEW_FORMAT]
        load = _load(await self.decoding.read_info(source, page), source.memory, kind)
        async with self.scheduler.admit(disconnected, load) as ticket:
            file = await self.decoding.decode(ticket, source, page)
            written = await self.encoding.encode(ticket, file, kind, None)
            ticket.keep(memory, len(written.data))
        return written

    async def estimate(
        self, source: ImageSource, page: int, disconnected: Disconnected
    ) -> tuple[NoiseEstimate, dict[str, str]]:
        """The noise of a page, counted from 1, and by name of each choice the model that it takes.

        Raises what the decode stage and Scheduler.admit raise.
        """
        load = _load(await self.decoding.read_info(source, page), source.memory)
        async with self.scheduler.admit(disconnected, load) as ticket:
            file = await self.decoding.decode(ticket, source, page)
            return await ticket.in_thread(partial(self.models().recommend, file.pages[0].samples))


def _numbers(estimate: NoiseEstimate) -> str:
    """The main fields of the answer of POST /estimate, as JSON in one line."""
    fields = {
        "scale": 255,
        "sigma": estimate.sigma,
        "luma": _component(estimate.luma),
        "chroma": _component(estimate.chroma),
        "correlated": estimate.correlated,
        "flat": estimate.flat,
        "jpeg_blocks": estimate.jpeg_blocks,
    }
    return json.dumps(_rounded(fields), separators=(",", ":"))


def _component(component: Component | None) -> dict[str, Any] | None:
    return {"sigma": component.sigma, "correlation": component.correlation} if component else None


def _rounded(value: Any) -> Any:
    """The same, with three digits after the point in each number."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return round(value, 3) if isinstance(value, float) else value


def _steps(params: DenoiseParams, kind: Format, pages: Sequence[Image]) -> PreparationOptions:
    """The steps before the network that a request allows."""
    steps = PreparationOptions.of(params.normalise, params.impulses, params.banding, params.force)
    return replace(steps, finer=finer_allowed(kind, params.output, pages))


@dataclass
class _Progress:
    """Counts denoised pixels, and reports their share of all pixels."""

    pixels: int
    on_progress: Callable[[float], None]
    done: int = 0

    def add(self, more: int) -> None:
        self.done += more
        self.on_progress(self.done / self.pixels)


def _load(
    read_info: ImageInfo, memory: int, kind: Format | None = None, options: OutputOptions = DEFAULT_OUTPUT
) -> Load:
    """memory: how much the open file takes, in bytes. kind: the format to write, if any."""
    pixel_bytes = PIXEL_BYTES[read_info.depth] + (ENCODER_BYTES.get(kind.name, 0) if kind else 0)
    pixel_bytes *= 2 if options.output == "compare" else 1
    pixel_bytes += FURTHER_PASSES_BYTES if options.passes > 1 else 0
    return Load(read_info.pixels * options.passes, read_info.pixels * pixel_bytes + memory)
