"""Prometheus metrics: counters and histograms of requests, images and jobs."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.process_collector import ProcessCollector

from engine.layers import kernels
from service.telemetry.tracing import current_request

# In seconds. A preview of a small image takes hundredths of a second, a large image minutes.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The metrics of one application. No label takes a value from the client, so each has few values."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "denoise_requests", "Requests answered.", ["route", "method", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "denoise_request_seconds",
            "Seconds from the head of a request to the end of its answer.",
            ["route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.errors = Counter(
            "denoise_errors",
            "Requests that were refused or failed, by kind of error.",
            ["kind"],
            registry=self.registry,
        )
        self.images = Counter("denoise_images", "Files denoised.", ["model"], registry=self.registry)
        self.jobs = Counter("denoise_jobs", "Jobs that have ended, by state.", ["state"], registry=self.registry)
        self.jobs_waiting = Gauge(
            "denoise_jobs_waiting",
            "Jobs that wait. Replicas that share a database all show the same number; NaN while it is away.",
            registry=self.registry,
        )
        self.pixels = Counter("denoise_pixels", "Pixels denoised.", ["model"], registry=self.registry)
        self.stage_seconds = Histogram(
            "denoise_stage_seconds",
            "Seconds that images spent in each stage: read (the body), wait (in the queue), decode, denoise "
            "(including other images' share of the network), encode, send. Model: empty before it is chosen.",
            ["stage", "model"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.cache_lookups = Counter(
            "denoise_cache_lookups",
            "Files looked up in the result cache, by what it had: hit (the answer), pages (the denoised image, "
            "written anew in another format) or miss.",
            ["found"],
            registry=self.registry,
        )
        about = Info("denoise_kernels", "The compiled kernels in use; plain means none.", registry=self.registry)
        about.info({"name": kernels.name()})
        ProcessCollector(registry=self.registry)

    def laps(self) -> Callable[..., None]:
        """A stopwatch. lap(stage, model) records the time since the last lap, or since now."""
        last = time.perf_counter()

        def lap(stage: str, model: str = "") -> None:
            nonlocal last
            now = time.perf_counter()
            self.stage_seconds.labels(stage, model).observe(now - last)
            last = now

        return lap

    def cached(self, found: str, model: str, digest: str) -> None:
        """Count a look-up in the result cache, and note the weights in the record of the request."""
        self.cache_lookups.labels(found).inc()
        current_request().models[model] = digest

    def image(self, model: str, digest: str, pixels: int) -> None:
        """Count a denoised file, here and in the record of its request. digest: of the model's weights."""
        self.images.labels(model).inc()
        self.pixels.labels(model).inc(pixels)
        record = current_request()
        record.pixels += pixels
        record.models[model] = digest
