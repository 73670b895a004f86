"""Pipeline: takes an image file through its stages: decode, choose a model, denoise, encode."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from engine.defaults import FORMAT
from engine.imageio.formats import FORMATS, SAME, Depth, Format, output_format
from engine.imageio.image import Image, ImageInfo, ImageSequence
from engine.imageio.sandbox.decoder import Decoder
from engine.imageio.write import refuse_unfit
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
    holds_floats,
    prepare_pages,
    steps_for,
    words_of,
)
from engine.models.checkpoint import Model
from service.auth.rate_limit import Charge
from service.params import DenoiseParams
from service.registry.snapshot import Snapshot
from service.runtime.numbers import compact_json
from service.runtime.result_cache import (
    DenoisedFile,
    DenoisedPages,
    FileKey,
    Found,
    PagesKey,
    Provenance,
    ResultCache,
)
from service.runtime.scheduler import Disconnected, Scheduler
from service.runtime.stages import DecodeStage, DenoiseStage, EncodeStage
from service.runtime.ticket import Load, MemoryShare, Ticket
from service.runtime.upload import ImageSource
from service.settings import Settings
from service.telemetry.metrics import Metrics

# The most memory that a pixel takes from file to file, in bytes, by the depth of its samples. Measured on noise,
# all processes together: 8 bits take 10, with transparency 12; 16 bits with transparency take 27; from 8 bits to
# WebP, it is 43; RGB of 64-bit floats takes 72. In one process it was up to twice that. 8 bits with an offset and
# impulses took 23 in one process.
PIXEL_BYTES: Mapping[Depth, int] = {"8": 24, "16": 40, "float": 75}
# What the encoders of some formats take in addition, in bytes a pixel.
ENCODER_BYTES = {"webp": 40, "avif": 40}
# Significant digits of the numbers in a header.
DIGITS = 6
# What further passes of the network take in addition, in bytes a pixel: the inputs of two as floats.
FURTHER_PASSES_BYTES = 24


def refuse_unknown(params: DenoiseParams, models: Snapshot) -> None:
    """Raises ProblemError (404) for an unknown model, CannotWrite for an unknown format.

    Call it before the image is read.
    """
    models.resolve_name(params.model)
    output_format(params.target, FORMATS[FORMAT])


@dataclass(frozen=True)
class OpenedFile:
    """A file that is decoded already. choose: as Snapshot.choose for its pages; runs in a thread."""

    info: ImageInfo
    digest: str
    file: ImageSequence
    choose: Callable[[], tuple[Model, NoiseEstimate]]


@dataclass(frozen=True)
class _Request:
    """What denoising one file takes.

    model: its name. kind: the format to write. opened: the file, if it is decoded already. Others: as
    Pipeline.denoise.
    """

    source: ImageSource
    params: DenoiseParams
    model: str
    info: ImageInfo
    kind: Format
    charge: Charge
    on_progress: Callable[[float], None]
    opened: OpenedFile | None = None

    @property
    def options(self) -> OutputOptions:
        """The options for the result."""
        given = self.params
        return OutputOptions(given.strength, given.luma, given.chroma, given.output, given.grain)

    @property
    def load(self) -> Load:
        """What the image needs."""
        return load_of(self.info, self.source.memory, self.kind, self.options)

    def key(self, upload: str, models: Snapshot) -> FileKey:
        """For the result cache. upload: SHA-256 of the file. models: those in service."""
        others = self.params.model_dump(mode="json", exclude={"format", "quality"})
        text = json.dumps({**others, "model": self.model}, sort_keys=True)
        weights = tuple(models.by_name[name].digest for name in models.weights_of(self.model))
        floats = holds_floats(self.kind)
        return FileKey(PagesKey(upload, text, weights, floats), self.kind.name, self.params.quality)


@dataclass(frozen=True)
class Pipeline:
    """The stages, and what connects them. models: gives the models in service when it is called.

    cache: of results. Requests of all kinds share it.

    accepted, low_priority: passed to Scheduler.admit.
    """

    models: Callable[[], Snapshot]
    scheduler: Scheduler
    decoding: DecodeStage
    denoising: DenoiseStage
    encoding: EncodeStage
    metrics: Metrics
    cache: ResultCache
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
        denoising = DenoiseStage(settings.memory_budget)
        cache = ResultCache(settings.cache_bytes, settings.cache_seconds)
        return cls(models, scheduler, decoding, denoising, encoding, metrics, cache)

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
        charge: Charge,
        on_progress: Callable[[float], None] = lambda share: None,
    ) -> DenoisedFile:
        """The file, denoised, or from the cache. A file from the cache takes no place in the queue and no charge.

        memory: holds the result's bytes when this returns; the caller releases it when they are sent.
        disconnected: as Scheduler.admit.
        charge: called with the number of the file's pixels before they are denoised; see ApiKeys.charger.
        on_progress: called after each window with the share of the file's pixels that is denoised, up to 1.
        Raises ProblemError (404) for an unknown model, and what the stages raise.
        """
        models = self.models()
        name = models.resolve_name(params.model)
        info, digest = await self.identify(source, params)
        kind = output_format(params.target, info.kind)
        request = _Request(source, params, name, info, kind, charge, on_progress)
        key = request.key(digest, models)
        if kept := self.cache.file(key, memory):
            self._count(kept, info)
            on_progress(1.0)
            return kept
        load = replace(request.load, pixels=0) if self.cache.has_pages(key.pages) else request.load
        lap = self.metrics.laps()
        async with self.scheduler.admit(disconnected, load, self.accepted, self.low_priority) as ticket:
            lap("wait")
            found, pages = await self._pages(ticket, request, key.pages, models, lap)
            written = await self.encoding.encode(ticket, pages.file, kind, params.quality)
            lap("encode", pages.provenance.model)
            ticket.keep(memory, len(written.data))
        result = DenoisedFile(written, pages.provenance, ticket.seconds, found)
        self._count(result, info)
        if self.models() is models:
            self.cache.keep_file(key, result)
        return result

    async def denoise_opened(
        self,
        ticket: Ticket,
        source: ImageSource,
        params: DenoiseParams,
        opened: OpenedFile,
        charge: Charge,
    ) -> DenoisedPages:
        """The pages of a file on view, denoised, or from the cache.

        They are kept. So `denoise` finds them if it writes the file's own format, or one that holds floats alike.
        charge: as for `denoise`.
        """
        models = self.models()
        info = opened.info
        kind = output_format(FORMAT if info.kind.writes is None else SAME, info.kind)
        name = models.resolve_name(params.model)
        request = _Request(source, params, name, info, kind, charge, lambda share: None, opened)
        key = request.key(opened.digest, models).pages
        found, pages = await self._pages(ticket, request, key, models, self.metrics.laps())
        if found == "miss":
            self.metrics.image(pages.provenance.model, pages.provenance.digest, info.pixels)
        return pages

    async def identify(self, source: ImageSource, params: DenoiseParams) -> tuple[ImageInfo, str]:
        """What the file's header says, and its SHA-256 if there is a cache; else an empty text."""
        if self.cache.limit:
            return await self.decoding.identify(source, params.page, params.colour)
        return await self.decoding.read_info(source, params.page, params.colour), ""

    def _count(self, result: DenoisedFile, info: ImageInfo) -> None:
        """Counts a file in the metrics."""
        made = result.provenance
        if self.cache.limit:
            self.metrics.cached(result.found, made.model, made.digest)
        if result.found == "miss":
            self.metrics.image(made.model, made.digest, info.pixels)

    async def _pages(
        self, ticket: Ticket, request: _Request, key: PagesKey, models: Snapshot, lap: Callable[..., None]
    ) -> tuple[Found, DenoisedPages]:
        """The denoised pages, from the cache or from the network. models: those that the key is for."""
        if kept := self.cache.pages(key):
            request.on_progress(1.0)
            return "pages", kept
        pages = await self._denoise(ticket, request, lap)
        # Other weights may have come into service, and may have been used.
        if self.models() is models:
            self.cache.keep_pages(key, pages)
        return "miss", pages

    async def _denoise(self, ticket: Ticket, request: _Request, lap: Callable[..., None]) -> DenoisedPages:
        """The file's pages, denoised by the network."""
        params, options = request.params, request.options
        progress = _Progress(request.load.pixels, request.on_progress)
        file, mosaic_words = await self._read(ticket, request)
        lap("decode")
        refuse_unfit(file, request.kind)
        # Only the list keeps the decoded pages: each makes room for its denoised page.
        pages = list(file.pages)
        file = replace(file, pages=())
        # One page decides for all, because they come from one camera. All get the same weights, even if others
        # are put in service meanwhile.
        samples = [page.samples for page in pages]
        models = self.models()
        name = DEVELOPED_MODEL if mosaic_words else request.model
        known = None if mosaic_words or not request.opened else request.opened.choose
        model, estimate = await ticket.in_thread(known or partial(models.choose, name, samples))
        steps = _steps(params, request.kind, pages)
        if mosaic_words:
            steps = steps_after_mosaic(steps)
        prepared = await ticket.in_thread(partial(prepare_pages, samples, estimate, steps))
        samples.clear()
        await self.denoising.denoise(ticket, model, pages, options, prepared, progress.add)
        lap("denoise", model.name)
        self.scheduler.rest_network()
        words = (*mosaic_words, *words_of(prepared))
        made = Provenance(
            model.name, model.digest, models.precision, summary(estimate), _numbers(estimate), words
        )
        return DenoisedPages(replace(file, pages=tuple(pages)), made)

    async def _read(self, ticket: Ticket, request: _Request) -> tuple[ImageSequence, tuple[str, ...]]:
        """The file's pages, and in words what was done to the mosaic of a camera raw file before developing."""
        models = self.models()
        source, params, pixels = request.source, request.params, request.info.pixels
        share = requested_share(request.options, PreparationOptions(normalise=params.normalise == "auto"))
        if request.info.kind.name == "raw" and request.model in AUTO_MODELS and share:
            known = await self.decoding.read_mosaic(ticket, source) if params.page in (None, 1) else None
            if known:
                await request.charge(pixels)
                mosaic, law = known
                model = await ticket.in_thread(models.by_name[MOSAIC_MODEL].model)
                values = await self.denoising.denoise_mosaic(ticket, model, mosaic, law, share)
                if values is not None:
                    return await self.decoding.develop(ticket, source, values, params.colour), (law.words,)
                return await self.decoding.decode(ticket, source, params.page, params.colour), ()
        opened = request.opened
        file = opened.file if opened else await self.decoding.decode(ticket, source, params.page, params.colour)
        await request.charge(pixels)
        return file, ()


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
    return compact_json(fields, DIGITS)


def _component(component: Component | None) -> dict[str, Any] | None:
    return {"sigma": component.sigma, "correlation": component.correlation} if component else None


def _steps(params: DenoiseParams, kind: Format, pages: Sequence[Image]) -> PreparationOptions:
    """The steps before the network that a request allows."""
    steps = PreparationOptions.of(params.normalise, params.impulses, params.banding, params.force)
    return steps_for(steps, kind, params.output, pages)


@dataclass
class _Progress:
    """Counts denoised pixels, and reports their share of all pixels."""

    pixels: int
    on_progress: Callable[[float], None]
    done: int = 0

    def add(self, more: int) -> None:
        self.done += more
        self.on_progress(self.done / self.pixels)


def load_of(
    read_info: ImageInfo, memory: int, kind: Format | None = None, options: OutputOptions = DEFAULT_OUTPUT
) -> Load:
    """What an image needs. memory: how much the open file takes, in bytes. kind: the format to write, if any."""
    pixel_bytes = PIXEL_BYTES[read_info.depth] + (ENCODER_BYTES.get(kind.name, 0) if kind else 0)
    pixel_bytes *= 2 if options.output == "compare" else 1
    pixel_bytes += FURTHER_PASSES_BYTES if options.passes > 1 else 0
    return Load(read_info.pixels * options.passes, read_info.pixels * pixel_bytes + memory)
