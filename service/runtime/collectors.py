"""Gauges for Prometheus that are read when it asks: the queue, the memory, the weights in service."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from service.registry.snapshot import Snapshot
from service.runtime.result_cache import ResultCache
from service.runtime.scheduler import Scheduler
from service.runtime.shutdown import GracefulShutdown


@contextmanager
def exposing(
    registry: CollectorRegistry,
    scheduler: Scheduler,
    cache: ResultCache,
    models: Callable[[], Snapshot],
    shutdown: GracefulShutdown,
) -> Iterator[None]:
    """Exposes the gauges until the block ends. models: gives the models in service."""
    gauges = _Gauges(scheduler, cache, models, shutdown)
    registry.register(gauges)
    try:
        yield
    finally:
        registry.unregister(gauges)


class _Gauges(Collector):
    def __init__(
        self,
        scheduler: Scheduler,
        cache: ResultCache,
        models: Callable[[], Snapshot],
        shutdown: GracefulShutdown,
    ) -> None:
        self.scheduler = scheduler
        self.cache = cache
        self.models = models
        self.shutdown = shutdown

    def collect(self) -> Iterator[Metric]:
        """Called by the library."""
        scheduler, models = self.scheduler, self.models()
        yield GaugeMetricFamily("denoise_ready", "1, or 0 once it has been told to stop.", self.shutdown.ready)
        queue = GaugeMetricFamily("denoise_queue_images", "Images in work or waiting.", labels=["state"])
        queue.add_metric(["working"], scheduler.in_work)
        queue.add_metric(["waiting"], scheduler.waiting)
        yield queue
        pixels = GaugeMetricFamily("denoise_queue_pixels", "Their pixels not denoised yet.", labels=["state"])
        pixels.add_metric(["working"], scheduler.pixels_in_work)
        pixels.add_metric(["waiting"], scheduler.pixels_waiting)
        yield pixels
        held = GaugeMetricFamily("denoise_held_bytes", "Memory that counts as taken.", labels=["for"])
        held.add_metric(["images"], scheduler.memory)
        held.add_metric(["bodies"], scheduler.body_bytes)
        held.add_metric(["cache"], self.cache.size)
        yield held
        weights = InfoMetricFamily("denoise_weights", "The weights in service.", labels=["name"])
        for name, model in models.by_name.items():
            weights.add_metric([name], {"digest": model.digest})
        yield weights
        faults = len(models.faults)
        yield GaugeMetricFamily("denoise_weights_faults", "Weights files that cannot be served.", faults)
