"""What Prometheus is told: how much was asked for and done, and how long it took."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, Info
from prometheus_client.process_collector import ProcessCollector

from engine.layers import kernels
from engine.models.checkpoint import Model
from service.telemetry.tracing import current

# In seconds: a preview of a small image takes some hundredths, a large one minutes.
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
        self.images = Counter("denoise_images", "Files denoised.", ["model"], registry=self.registry)
        self.jobs = Counter("denoise_jobs", "Jobs that have ended, by how.", ["state"], registry=self.registry)
        self.pixels = Counter("denoise_pixels", "Pixels denoised.", ["model"], registry=self.registry)
        self.stage_seconds = Histogram(
            "denoise_stage_seconds",
            "How long images took on their way: read (the body), wait (for its turn), decode, denoise (other "
            "images' turns included), encode, send. Model: empty while it is not chosen.",
            ["stage", "model"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        about = Info("denoise_kernels", "The compiled kernels in use, or plain.", registry=self.registry)
        about.info({"name": kernels.name()})
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

    def image(self, model: Model, pixels: int) -> None:
        """Count a file that was denoised, here and in its request's record."""
        self.images.labels(model.name).inc()
        self.pixels.labels(model.name).inc(pixels)
        record = current()
        record.pixels += pixels
        record.models[model.name] = model.digest
