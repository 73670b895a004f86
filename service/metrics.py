"""What Prometheus is told: how much was asked for and done, how long it took, and what is being done now."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from engine.weights import Model
from service.closing import Closing
from service.tracing import current

if TYPE_CHECKING:
    from service.denoising import Denoiser

# In seconds: a preview of a small picture takes some hundredths, a large one minutes.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Everything that is counted, of one application. A label has few values: no path, name or id that came."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "denoise_requests", "Requests answered.", ["route", "method", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "denoise_request_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.errors = Counter(
            "denoise_errors",
            "Requests that were refused or failed, by what was wrong.",
            ["kind"],
            registry=self.registry,
        )
        self.pictures = Counter("denoise_pictures", "Files denoised.", ["model"], registry=self.registry)
        self.jobs = Counter("denoise_jobs", "Jobs that have ended, by how.", ["state"], registry=self.registry)
        self.pixels = Counter("denoise_pixels", "Pixels denoised.", ["model"], registry=self.registry)
        self.stage_seconds = Histogram(
            "denoise_stage_seconds",
            "How long pictures took on their way: read (the body), wait (for its turn), decode, denoise (other "
            "pictures' turns included), encode, send. Model: empty while it is not chosen.",
            ["stage", "model"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)

    def laps(self) -> Callable[..., None]:
        """A clock: lap(stage, model) counts the time since the lap before, or since now."""
        last = time.perf_counter()

        def lap(stage: str, model: str = "") -> None:
            nonlocal last
            now = time.perf_counter()
            self.stage_seconds.labels(stage, model).observe(now - last)
            last = now

        return lap

    def picture(self, model: Model, pixels: int) -> None:
        """Count a file that was denoised, here and in its request's record."""
        self.pictures.labels(model.name).inc()
        self.pixels.labels(model.name).inc(pixels)
        record = current()
        record.pixels += pixels
        record.models[model.name] = model.digest

    @contextmanager
    def showing(self, denoiser: "Denoiser", closing: Closing) -> Iterator[None]:
        """Meanwhile, tell how these stand whenever it is asked."""
        now = _Now(denoiser, closing)
        self.registry.register(now)
        try:
            yield
        finally:
            self.registry.unregister(now)


class _Now(Collector):
    """What is not counted but looked at."""

    def __init__(self, denoiser: "Denoiser", closing: Closing) -> None:
        self.denoiser, self.closing = denoiser, closing

    def collect(self) -> Iterator[Metric]:
        """The families, by the library's protocol."""
        schedule, models = self.denoiser.schedule, self.denoiser.models
        yield GaugeMetricFamily("denoise_ready", "1, or 0 once it is stopping.", not self.closing.begun)
        queue = GaugeMetricFamily("denoise_queue_pictures", "Pictures in work or waiting.", labels=["state"])
        queue.add_metric(["working"], schedule.in_work)
        queue.add_metric(["waiting"], schedule.waiting)
        yield queue
        pixels = GaugeMetricFamily("denoise_queue_pixels", "Theirs, not denoised yet.", labels=["state"])
        pixels.add_metric(["working"], schedule.pixels_in_work)
        pixels.add_metric(["waiting"], schedule.pixels_waiting)
        yield pixels
        held = GaugeMetricFamily("denoise_held_bytes", "Memory that counts as taken.", labels=["for"])
        held.add_metric(["pictures"], schedule.memory)
        held.add_metric(["bodies"], schedule.body_bytes)
        yield held
        weights = InfoMetricFamily("denoise_weights", "The weights in service.", labels=["name"])
        for name, model in models.by_name.items():
            weights.add_metric([name], {"digest": model.digest})
        yield weights
        faults = len(models.faults)
        yield GaugeMetricFamily("denoise_weights_faults", "Weights files that are not what is served.", faults)
