"""A picture file on its way through: decoded, denoised page by page, encoded. Every such route goes here."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from urllib.parse import quote

from starlette.types import Receive

from engine.estimate import Estimate, in_words
from engine.formats import chosen
from engine.images import Picture, Written, encode, read
from engine.picture import Denoising, Finish
from engine.weights import Model
from service.metrics import Metrics
from service.models import Models
from service.schedule import Schedule, Turn
from service.settings import Settings
from service.wishes import Wishes


@dataclass(frozen=True)
class Denoised:
    """A denoised file, and what made it. estimate: the noise found, where the model was chosen by it."""

    written: Written
    model: Model
    precision: str
    estimate: Estimate | None
    seconds: float

    @property
    def headers(self) -> dict[str, str]:
        """What an answer tells of it beside the picture."""
        headers = {
            "X-Denoise-Model": quote(self.model.name),
            "X-Denoise-Digest": self.model.digest,
            "X-Denoise-Precision": self.precision,
            "X-Denoise-Seconds": f"{self.seconds:.3f}",
        }
        if self.estimate:
            headers["X-Denoise-Noise"] = in_words(self.estimate)
        if self.written.changed:
            headers["X-Denoise-Changed"] = "; ".join(self.written.changed)
        return headers


@dataclass(frozen=True)
class Denoiser:
    """What it takes to denoise a file: the weights, whose turn it is, and the limits; and who counts it.

    serving: gives the weights that are in service when it is called.
    """

    serving: Callable[[], Models]
    schedule: Schedule
    settings: Settings
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def models(self) -> Models:
        """The weights in service now. The next time they may be others."""
        return self.serving()

    def settled(self) -> "Denoiser":
        """The same with the weights that are in service now, for a request of several files: all get the same."""
        models = self.models
        return replace(self, serving=lambda: models)

    async def file(
        self,
        body: bytes,
        wishes: Wishes,
        target: str,
        receive: Receive,
        spend: Callable[[int], None],
        told: Callable[[float], None] = lambda share: None,
    ) -> Denoised:
        """A file's bytes -> the denoised file. target: the format to write, or SAME. receive: as Schedule.turn.

        spend: called with the number of its pixels, once they are known; see Keys.spending.
        told: called after each window with the share of the file's pixels that is denoised, up to 1.
        Raises what `read` and `encode` raise, NoSuchModel, and Cancelled once the client is gone.
        """
        name, settings = self.models.named(wishes.model), self.settings
        lap = self.metrics.laps()
        async with self.schedule.turn(receive) as turn:
            lap("wait")
            file = await turn.in_thread(partial(read, body, settings.max_pixels, settings.max_pages, wishes.page))
            lap("decode")
            # A name for each large thing would keep it until the end.
            del body
            kind = chosen(target, file.kind)
            finish = Finish(wishes.strength, wishes.luma, wishes.chroma, wishes.output)
            pages = list(file.pages)
            pixels = sum(page.samples.shape[0] * page.samples.shape[1] for page in pages)
            spend(pixels)
            file = replace(file, pages=())
            # The first page decides for all: they come from one camera. The weights taken here see all of them,
            # whatever is put in service meanwhile.
            model, estimate = await turn.in_thread(partial(self.models.choose, name, pages[0]))
            done = 0

            def tell(more: int) -> None:
                nonlocal done
                done += more
                told(done / pixels)

            for number in range(len(pages)):
                pages[number] = await self._page(turn, model, pages[number], finish, tell)
            lap("denoise", model.name)
            file = replace(file, pages=tuple(pages))
            written = await turn.in_thread(partial(encode, file, kind, wishes.quality, settings.png_level))
            lap("encode", model.name)
        self.metrics.picture(model, pixels)
        return Denoised(written, model, self.models.precision, estimate, turn.seconds)

    async def estimate(self, body: bytes, page: int, receive: Receive) -> tuple[Estimate, str | None]:
        """The noise of a file's page, counted from 1, and the model that AUTO takes for it, if it is served.

        receive: as Schedule.turn. Raises what `read` raises.
        """
        async with self.schedule.turn(receive) as turn:
            limits = (self.settings.max_pixels, self.settings.max_pages)
            file = await turn.in_thread(partial(read, body, *limits, page))
            return await turn.in_thread(partial(self.models.look, file.pages[0]))

    async def _page(
        self, turn: Turn, model: Model, page: Picture, finish: Finish, tell: Callable[[int], None]
    ) -> Picture:
        """One page, denoised. tell: called with the pixels of each window that is done."""
        budget = self.settings.memory_budget
        denoising = await turn.in_thread(partial(Denoising, model.net, page, budget, finish=finish))
        for piece in denoising.pieces:
            await turn.in_network(piece)
            tell(piece.pixels)
        return await turn.in_thread(denoising.result)
