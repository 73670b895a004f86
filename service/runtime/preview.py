"""Previews: parts of an image for the eye, noisy or denoised, from its real samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import quote

from engine.imageio.formats import FORMATS, Depth
from engine.imageio.image import WHITE, EncodedImage, Image, ImageSequence
from engine.inference.model_selection import Choice
from engine.inference.noise_estimation import NoiseEstimate
from engine.inference.noise_estimation.banding import NO_BANDING
from engine.inference.noise_estimation.impulses import NO_IMPULSES
from engine.inference.noise_estimation.pages import sampled_pages
from engine.inference.preparation import PreparationOptions, page_preparer
from engine.models.checkpoint import Model
from service.auth.rate_limit import Charge
from service.params import PreviewParams
from service.problems import ProblemError
from service.registry.snapshot import Snapshot
from service.runtime.boxes import Box, around, box_of, factor_for, moved, part_of, pixels_of
from service.runtime.numbers import compact_json
from service.runtime.pipeline import PIXEL_BYTES, OpenedFile, Pipeline, load_of
from service.runtime.rendering import (
    beside,
    distribution_of,
    reduce,
    to_8_bits,
    with_colours_alone,
)
from service.runtime.result_cache import Provenance
from service.runtime.scheduler import Disconnected
from service.runtime.ticket import Load, MemoryShare, Ticket
from service.runtime.views import Treatment, View, ViewedPage, Views

# What every browser can show, with 16 bits.
PREVIEW_FORMAT = "png"
# An image of at most so many pixels is denoised whole, as POST /denoise does. A larger one is denoised in parts,
# unless a part is most of it.
WHOLE_PIXELS = 1_100_000
# Most pixels of the pages of a stack whose noise is measured together, as POST /denoise does. Larger pages are
# measured alone.
STACK_PIXELS = 8_000_000
# Significant digits of the numbers in the header.
DIGITS = 9


class WrongPoints(ProblemError):
    """A black point that is not below the white point."""

    status = 422


@dataclass(frozen=True)
class Preview:
    """A rendered part of an image as PNG, and the response headers that describe it."""

    written: EncodedImage
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Previewer:
    """Renders previews of the images on view, by the stages of the pipeline: so both make the same images."""

    pipeline: Pipeline
    views: Views

    async def render(
        self,
        view: View,
        params: PreviewParams,
        memory: MemoryShare,
        disconnected: Disconnected,
        charge: Charge,
    ) -> Preview:
        """The part of the image that the parameters ask for.

        memory, disconnected, charge: as Pipeline.denoise; only denoised pixels are charged.
        Raises ProblemError (404) for an unknown model, OutsideImage, WrongPoints, and what the stages raise.
        """
        models = self.pipeline.models()
        name = models.resolve_name(params.model)
        number = params.page or 1
        page = view.pages.get(number)
        load = await self._load(view, number, page, params)
        async with self.pipeline.scheduler.admit(disconnected, load) as ticket:
            page = page or await self._decoded(ticket, view, number)
            points = _points(params, page)
            box = box_of(params.crop, page.image)
            factor = params.reduction or factor_for(params.side, box)
            model, words = "", tuple[str, ...]()
            noisy = await self._noisy(ticket, page, box, factor)
            image = noisy
            if params.output != "noisy":
                asked = _Asked(view, page, params, models, name, charge)
                clean, model, words = await self._clean(ticket, asked, box)
                clean = await ticket.in_thread(partial(reduce, clean, factor))
                image = beside(noisy, clean) if params.output == "compare" else clean
            self.views.trim(view)
            written = await self._encode(ticket, page, image, points)
            ticket.keep(memory, len(written.data))
        headers = {"X-Denoise-View": _about(view, number, page, points)}
        if model:
            headers["X-Denoise-Model"] = quote(model)
        if words:
            headers["X-Denoise-Steps"] = "; ".join(words)
        if written.changed:
            headers["X-Denoise-Changed"] = "; ".join(written.changed)
        return Preview(written, headers)

    async def estimate(
        self, view: View, number: int, disconnected: Disconnected
    ) -> tuple[NoiseEstimate, dict[str, Choice]]:
        """The noise of a page, counted from 1, and what each auto model chooses for it, by their names.

        Raises what the decode stage and Scheduler.admit raise.
        """
        page = view.pages.get(number)
        load = await self._load(view, number, page)
        async with self.pipeline.scheduler.admit(disconnected, load) as ticket:
            page = page or await self._decoded(ticket, view, number)
            models = self.pipeline.models()
            found, choices = await ticket.in_thread(partial(models.recommend, page.image.samples))
            page.noise = (models, choices)
            return found, choices

    async def _load(
        self, view: View, number: int, page: ViewedPage | None, params: PreviewParams | None = None
    ) -> Load:
        """What a request needs: for the whole page if it has to be decoded, otherwise for a part of it."""
        if page is None:
            kind = FORMATS[PREVIEW_FORMAT] if params else None
            info = await self.pipeline.decoding.read_info(view.source, number, count_pages=view.count is None)
            view.count = view.count or info.pages
            view.kind = info.kind
            load = load_of(info, view.source.memory, kind)
            return (
                _with_stack(load, view, info.pixels, info.depth) if params and params.output != "noisy" else load
            )
        box, passes = box_of(params.crop if params else None, page.image), 1
        if params and params.output != "noisy":
            whole = box_of(None, page.image)
            passes = params.options.passes
            models = self.pipeline.models()
            asked = _Asked(view, page, params, models, models.resolve_name(params.model))
            if asked.takes_whole(box):
                box = box if asked.key in page.rendered else whole
            else:
                box = around(_denoised_at_once(box, whole), whole, passes)
        twice = 2 if params and params.output == "compare" else 1
        load = Load(pixels_of(box) * passes, pixels_of(box) * PIXEL_BYTES[page.image.depth] * twice)
        if params and params.output != "noisy" and not page.treatments:
            return _with_stack(load, view, pixels_of(whole), page.image.depth)
        return load

    async def _decoded(self, ticket: Ticket, view: View, number: int) -> ViewedPage:
        async with view.decoding:
            if number not in view.pages:
                file = await self.pipeline.decoding.decode(ticket, view.source, number)
                distribution = await ticket.in_thread(partial(distribution_of, file.pages[0]))
                view.pages[number] = ViewedPage(file.pages[0], file.changed, distribution)
            page = view.pages[number]
        self.views.trim(view)
        return page

    async def _treatment(self, ticket: Ticket, asked: "_Asked") -> Treatment:
        """How the page is denoised. It is the same for all its parts."""
        page, key = asked.page, (asked.name, asked.params.force)
        treatment = page.treatments.get(key)
        if treatment is None or treatment.models is not asked.models:
            numbers = _measured_pages(asked.view, pixels_of(box_of(None, page.image)))
            pages = [await self._decoded(ticket, asked.view, number) for number in numbers]
            treatment = await ticket.in_thread(partial(_treatment_of, asked, pages or [page]))
            page.treatments[key] = treatment
        return treatment

    async def _noisy(self, ticket: Ticket, page: ViewedPage, box: Box, factor: int) -> Image:
        if factor == 1:
            return part_of(page.image, box)
        key = ("noisy", box, factor)
        if key not in page.rendered:
            part = part_of(page.image, box)
            page.rendered[key] = await ticket.in_thread(partial(reduce, part, factor))
        return page.rendered[key]

    async def _clean(self, ticket: Ticket, asked: "_Asked", box: Box) -> tuple[Image, str, tuple[str, ...]]:
        """The part, denoised, at its full size; the name of the model, and what was done besides."""
        if asked.takes_whole(box):
            image, made = await self._denoised_whole(ticket, asked)
            return part_of(image, box), made.model, made.steps
        treatment = await self._treatment(ticket, asked)
        return await self._denoised_part(ticket, asked, treatment, box), treatment.model.name, treatment.words

    async def _denoised_whole(self, ticket: Ticket, asked: "_Asked") -> tuple[Image, Provenance]:
        """The only page of a file. POST /denoise gives the same image, and finds it in the cache."""
        view, page, key = asked.view, asked.page, asked.key
        async with view.denoising:
            if key not in page.rendered:
                request = asked.params.whole
                view.identity = view.identity or await self.pipeline.identify(view.source, request)
                info, digest = view.identity
                file = ImageSequence(info.kind, (page.image,), changed=page.changed)
                opened = OpenedFile(info, digest, file, partial(_chosen, page, asked.models, asked.name))
                pages = await self.pipeline.denoise_opened(ticket, view.source, request, opened, asked.charge)
                page.made[key] = pages.provenance
                page.rendered[key] = await ticket.in_thread(partial(_like, page.image, pages.file.pages[0]))
            return page.rendered[key], page.made[key]

    async def _denoised_part(self, ticket: Ticket, asked: "_Asked", treatment: Treatment, box: Box) -> Image:
        """A part of a large page, or of one of several, denoised. It is kept for the next request."""
        page, params = asked.page, asked.params
        if treatment.preparation.unchanged:
            return part_of(page.image, box)
        whole = box_of(None, page.image)
        area = _denoised_at_once(box, whole)
        options = params.options
        key = ("clean", treatment.model.digest, params.force, params.strength, params.grain, area)
        image = page.rendered.get(key)
        if image is None:
            surroundings = around(area, whole, options.passes)
            await asked.charge(pixels_of(surroundings))
            pages = [part_of(treatment.source, surroundings)]
            steps = [treatment.preparation]
            denoise = self.pipeline.denoising.denoise
            await denoise(ticket, treatment.model, pages, options, steps, lambda pixels: None)
            inner = moved(area, -surroundings[0], -surroundings[1])
            # Without the pixels around it, which a part of a tensor would keep.
            image = _copied(part_of(pages[0], inner))
            page.rendered[key] = image
        return part_of(image, moved(box, -area[0], -area[1]))

    async def _encode(
        self, ticket: Ticket, page: ViewedPage, image: Image, points: tuple[float, float] | None
    ) -> EncodedImage:
        if image is not page.image:
            image = with_colours_alone(image)
        if points:
            image = with_colours_alone(await ticket.in_thread(partial(to_8_bits, image, *points)))
        kind = FORMATS[PREVIEW_FORMAT]
        return await self.pipeline.encoding.encode(
            ticket, ImageSequence(kind, (image,), changed=page.changed), kind, None
        )


async def _free(pixels: int) -> None:
    """For pixels that are not charged."""


@dataclass(frozen=True)
class _Asked:
    """What a request is about. name: of the model. charge: as Previewer.render."""

    view: View
    page: ViewedPage
    params: PreviewParams
    models: Snapshot
    name: str
    charge: Charge = _free

    @property
    def key(self) -> tuple[Any, ...]:
        """Of the page that is denoised whole, in `page.rendered`."""
        params = self.params
        weights = tuple(self.models.by_name[each].digest for each in self.models.weights_of(self.name))
        return "whole", self.name, weights, params.force, params.strength, params.grain

    def takes_whole(self, box: Box) -> bool:
        """Whether the file is denoised whole for this part.

        That is exact, and a download of the file then takes no time. A camera raw file is denoised before it is
        developed, so its parts cannot be denoised on their own.
        """
        if self.view.count != 1:
            return False
        kind, whole = self.view.kind, pixels_of(box_of(None, self.page.image))
        is_raw = kind is not None and kind.name == "raw"
        is_most = whole <= WHOLE_PIXELS or 2 * pixels_of(box) > whole
        return is_raw or is_most or self.key in self.page.rendered


def _like(noisy: Image, clean: Image) -> Image:
    """The denoised image with samples of the noisy one's type: a file of whole counts may become floats."""
    samples, dtype = clean.samples, noisy.samples.dtype
    if samples.dtype != dtype:
        samples = samples.round().clamp(0, WHITE[dtype]).to(dtype)
    return replace(clean, samples=samples, missing=None)


def _chosen(page: ViewedPage, models: Snapshot, name: str) -> tuple[Model, NoiseEstimate]:
    """What Snapshot.choose answers. To measure the noise takes long, so it is not done twice."""
    if page.noise:
        measured_by, choices = page.noise
        if measured_by is models and name in choices:
            return models.by_name[choices[name].name].model(), choices[name].applied
    return models.choose(name, [page.image.samples])


def _chosen_for_file(asked: _Asked, pages: Sequence[ViewedPage]) -> tuple[Model, NoiseEstimate]:
    """What Snapshot.choose answers for these pages of a file. It is kept for the other pages."""
    if len(pages) == 1:
        return _chosen(pages[0], asked.models, asked.name)
    kept = asked.view.choices.get(asked.name)
    if kept is None or kept[0] is not asked.models:
        kept = asked.models, asked.models.choose(asked.name, [each.image.samples for each in pages])
        asked.view.choices[asked.name] = kept
    return kept[1]


def _treatment_of(asked: _Asked, pages: Sequence[ViewedPage]) -> Treatment:
    """pages: those whose noise decides."""
    image = asked.page.image
    model, estimate = _chosen_for_file(asked, pages)
    options = PreparationOptions(force=asked.params.force, counts=all(each.image.in_counts for each in pages))
    samples = [each.image.samples for each in pages]
    preparation = page_preparer(samples, estimate, options)(image.samples)
    source = image
    if not preparation.unchanged:
        # On the whole page, once: offsets belong to whole rows and columns.
        source = replace(image, samples=preparation.before_network(image.samples))
    rest = replace(preparation, impulses=NO_IMPULSES, banding=NO_BANDING)
    return Treatment(asked.models, model, rest, source, preparation.words)


def _measured_pages(view: View, pixels: int) -> list[int]:
    """The pages of a stack whose noise decides for all, counted from 1; none for each page's own noise.

    pixels: of a page.
    """
    numbers = [number + 1 for number in sampled_pages(view.count or 1)]
    return numbers if 1 < len(numbers) <= STACK_PIXELS // pixels else []


def _with_stack(load: Load, view: View, pixels: int, depth: Depth) -> Load:
    """What a request needs that may be the first to measure the noise of a stack. pixels, depth: of a page."""
    more = len(_measured_pages(view, pixels)) * pixels * PIXEL_BYTES[depth]
    return replace(load, memory=load.memory + more)


def _points(params: PreviewParams, page: ViewedPage) -> tuple[float, float] | None:
    """The black and the white point; None to keep the samples' depth."""
    if params.black is None and params.white is None:
        return None
    automatic = page.distribution
    black = automatic.black if params.black in (None, "auto") else float(params.black or 0)
    white = automatic.white if params.white in (None, "auto") else float(params.white or 0)
    if black >= white:
        raise WrongPoints(f"The black point {black:g} is not below the white point {white:g}. Give a lower one.")
    return black, white


def _denoised_at_once(box: Box, whole: Box) -> Box:
    """The part that is denoised for this part."""
    return whole if pixels_of(whole) <= WHOLE_PIXELS else box


def _copied(image: Image) -> Image:
    alpha = None if image.alpha is None else image.alpha.clone()
    return replace(image, samples=image.samples.clone(), alpha=alpha, missing=None)


def _about(view: View, number: int, page: ViewedPage, points: tuple[float, float] | None) -> str:
    """The header that describes the page, as JSON in one line."""
    image, found = page.image, page.distribution
    height, width = image.samples.shape[:2]
    black, white = points or (None, None)
    fields: dict[str, Any] = {
        "view": view.token or None,
        "page": number,
        "pages": view.count or 1,
        "width": width,
        "height": height,
        "type": image.stored or str(image.samples.dtype).removeprefix("torch."),
        "black": black,
        "white": white,
        "auto": (found.black, found.white),
        "range": found.range,
        "ends": found.ends,
        "histogram": found.counts,
    }
    return compact_json(fields, DIGITS)
