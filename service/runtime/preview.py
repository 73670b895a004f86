"""Previews: parts of an image for the eye, noisy or denoised, from its real samples."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import quote

from engine.imageio.formats import FORMATS
from engine.imageio.image import EncodedImage, Image, ImageSequence
from engine.inference.noise_estimation import NoiseEstimate
from engine.inference.noise_estimation.banding import NO_BANDING
from engine.inference.noise_estimation.impulses import NO_IMPULSES
from engine.inference.preparation import PreparationOptions, prepare
from engine.models.checkpoint import Model
from service.auth.rate_limit import Charge
from service.params import PreviewParams
from service.problems import ProblemError
from service.registry.snapshot import Snapshot
from service.runtime.numbers import compact_json
from service.runtime.pipeline import PIXEL_BYTES, Pipeline, load_of
from service.runtime.rendering import (
    beside,
    crop,
    distribution_of,
    reduce,
    to_8_bits,
    with_colours_alone,
)
from service.runtime.scheduler import Disconnected
from service.runtime.ticket import Load, MemoryShare, Ticket
from service.runtime.views import Treatment, View, ViewedPage, Views

# What every browser can show, with 16 bits.
PREVIEW_FORMAT = "png"
# Neighbouring pixels that are denoised with a part, so that parts join without a seam. With the shipped networks,
# parts differ from the image denoised whole by at most 0.15 of 255; with 48 pixels by 0.9, with 32 by 5.
HALO = 64
# Where a part that is denoised may begin: the networks halve the image several times.
GRID = 32
# Of an image of at most so many pixels, all is denoised at once: then its means are exact.
WHOLE_PIXELS = 1_100_000
# Significant digits of the numbers in the header.
DIGITS = 9

Box = tuple[int, int, int, int]


class OutsideImage(ProblemError):
    """A part that reaches beyond the image."""

    status = 422


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
            box = _box(params.crop, page.image)
            factor = params.reduction or _factor(params.side, box)
            treatment = None
            noisy = await self._noisy(ticket, page, box, factor)
            image = noisy
            if params.output != "noisy":
                treatment = await self._treatment(ticket, page, models, name, params.force)
                clean = await self._clean(ticket, page, treatment, params, box, charge)
                clean = await ticket.in_thread(partial(reduce, clean, factor))
                image = beside(noisy, clean) if params.output == "compare" else clean
            self.views.trim(view)
            written = await self._encode(ticket, page, image, points)
            ticket.keep(memory, len(written.data))
        headers = {"X-Denoise-View": _about(view, number, page, points)}
        if treatment:
            headers["X-Denoise-Model"] = quote(treatment.model.name)
            if treatment.words:
                headers["X-Denoise-Steps"] = "; ".join(treatment.words)
        if written.changed:
            headers["X-Denoise-Changed"] = "; ".join(written.changed)
        return Preview(written, headers)

    async def estimate(
        self, view: View, number: int, disconnected: Disconnected
    ) -> tuple[NoiseEstimate, dict[str, str]]:
        """The noise of a page, counted from 1, and by name of each choice the model that it takes.

        Raises what the decode stage and Scheduler.admit raise.
        """
        page = view.pages.get(number)
        load = await self._load(view, number, page)
        async with self.pipeline.scheduler.admit(disconnected, load) as ticket:
            page = page or await self._decoded(ticket, view, number)
            models = self.pipeline.models()
            found, names = await ticket.in_thread(partial(models.recommend, page.image.samples))
            page.noise = (models, found, names)
            return found, names

    async def _load(
        self, view: View, number: int, page: ViewedPage | None, params: PreviewParams | None = None
    ) -> Load:
        """What a request needs: for the whole page if it has to be decoded, otherwise for a part of it."""
        if page is None:
            kind = FORMATS[PREVIEW_FORMAT] if params else None
            info = await self.pipeline.decoding.read_info(view.source, number, count_pages=view.count is None)
            view.count = view.count or info.pages
            return load_of(info, view.source.memory, kind)
        box, passes = _box(params.crop if params else None, page.image), 1
        if params and params.output != "noisy":
            whole = _box(None, page.image)
            passes = params.options.passes
            box = _around(_denoised_at_once(box, whole), whole, passes)
        twice = 2 if params and params.output == "compare" else 1
        return Load(_pixels(box) * passes, _pixels(box) * PIXEL_BYTES[page.image.depth] * twice)

    async def _decoded(self, ticket: Ticket, view: View, number: int) -> ViewedPage:
        async with view.decoding:
            if number not in view.pages:
                file = await self.pipeline.decoding.decode(ticket, view.source, number)
                distribution = await ticket.in_thread(partial(distribution_of, file.pages[0]))
                view.pages[number] = ViewedPage(file.pages[0], file.changed, distribution)
            page = view.pages[number]
        self.views.trim(view)
        return page

    async def _treatment(
        self, ticket: Ticket, page: ViewedPage, models: Snapshot, name: str, force: bool
    ) -> Treatment:
        """How the page is denoised. It is the same for all its parts."""
        treatment = page.treatments.get((name, force))
        if treatment is None or treatment.models is not models:
            treatment = await ticket.in_thread(partial(_treatment_of, page, models, name, force))
            page.treatments[name, force] = treatment
        return treatment

    async def _noisy(self, ticket: Ticket, page: ViewedPage, box: Box, factor: int) -> Image:
        if factor == 1:
            return _part(page.image, box)
        key = ("noisy", box, factor)
        if key not in page.rendered:
            part = _part(page.image, box)
            page.rendered[key] = await ticket.in_thread(partial(reduce, part, factor))
        return page.rendered[key]

    async def _clean(
        self,
        ticket: Ticket,
        page: ViewedPage,
        treatment: Treatment,
        params: PreviewParams,
        box: Box,
        charge: Charge,
    ) -> Image:
        """The part, denoised, at its full size. It is kept for the next request."""
        if treatment.preparation.unchanged:
            return _part(page.image, box)
        whole = _box(None, page.image)
        area = _denoised_at_once(box, whole)
        options = params.options
        key = ("clean", treatment.model.digest, params.force, params.strength, params.grain, area)
        image = page.rendered.get(key)
        if image is None:
            around = _around(area, whole, options.passes)
            await charge(_pixels(around))
            pages = [_part(treatment.source, around)]
            steps = [treatment.preparation]
            denoise = self.pipeline.denoising.denoise
            await denoise(ticket, treatment.model, pages, options, steps, lambda pixels: None)
            inner = _moved(area, -around[0], -around[1])
            # Without the pixels around it, which a part of a tensor would keep.
            image = _copied(_part(pages[0], inner))
            page.rendered[key] = image
        return _part(image, _moved(box, -area[0], -area[1]))

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


def _chosen(page: ViewedPage, models: Snapshot, name: str) -> tuple[Model, NoiseEstimate]:
    """What Snapshot.choose answers. To measure the noise takes long, so it is not done twice."""
    if page.noise:
        measured_by, estimate, names = page.noise
        # The estimate is that of the first choice.
        if measured_by is models and name == next(iter(names), None):
            return models.by_name[names[name]].model(), estimate
    return models.choose(name, [page.image.samples])


def _treatment_of(page: ViewedPage, models: Snapshot, name: str, force: bool) -> Treatment:
    image = page.image
    model, estimate = _chosen(page, models, name)
    preparation = prepare(image.samples, estimate, PreparationOptions(force=force))
    source = image
    if not preparation.unchanged:
        # On the whole page, once: offsets belong to whole rows and columns.
        source = replace(image, samples=preparation.before_network(image.samples))
    rest = replace(preparation, impulses=NO_IMPULSES, banding=NO_BANDING)
    return Treatment(models, model, rest, source, preparation.words)


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


def _box(text: str | None, image: Image) -> Box:
    """Left, top, right and bottom of a part, or of the whole image."""
    height, width = image.samples.shape[:2]
    if text is None:
        return 0, 0, width, height
    left, top, across, down = (int(part) for part in text.split(","))
    if not across or not down or left + across > width or top + down > height:
        raise OutsideImage(
            f"The crop {text} is empty or reaches beyond the image, which has {width} x {height} pixels. "
            "Give left, top, width and height of a part."
        )
    return left, top, left + across, top + down


def _factor(side: int | None, box: Box) -> int:
    """By how much a part is reduced, for its longer side to have so many pixels at most."""
    left, top, right, bottom = box
    return max(1, -(-max(right - left, bottom - top) // side)) if side else 1


def _denoised_at_once(box: Box, whole: Box) -> Box:
    """The part that is denoised for this part."""
    return whole if _pixels(whole) <= WHOLE_PIXELS else box


def _around(box: Box, whole: Box, passes: int) -> Box:
    """The part with its surroundings, of which each pass of the network needs some. It begins on the grid."""
    left, top, right, bottom = box
    left, top = (max(0, side - passes * HALO) // GRID * GRID for side in (left, top))
    return left, top, min(whole[2], right + passes * HALO), min(whole[3], bottom + passes * HALO)


def _part(image: Image, box: Box) -> Image:
    left, top, right, bottom = box
    height, width = image.samples.shape[:2]
    if box == (0, 0, width, height):
        return image
    return crop(image, left, top, right - left, bottom - top)


def _moved(box: Box, across: int, down: int) -> Box:
    left, top, right, bottom = box
    return left + across, top + down, right + across, bottom + down


def _pixels(box: Box) -> int:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


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
