"""What Prometheus is told of what is not counted but looked at: the queue, the memory, the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from service.runtime.pipeline import Denoiser
from service.runtime.shutdown import GracefulShutdown


@contextmanager
def showing(registry: CollectorRegistry, denoiser: Denoiser, closing: GracefulShutdown) -> Iterator[None]:
    """Meanwhile, tell how these stand whenever it is asked."""
    now = _Now(denoiser, closing)
    registry.register(now)
    try:
        yield
    finally:
        registry.unregister(now)


class _Now(Collector):
    def __init__(self, denoiser: Denoiser, closing: GracefulShutdown) -> None:
        self.denoiser, self.closing = denoiser, closing

    def collect(self) -> Iterator[Metric]:
        """The families, by the library's protocol."""
        schedule, models = self.denoiser.schedule, self.denoiser.models
        yield GaugeMetricFamily("denoise_ready", "1, or 0 once it is stopping.", not self.closing.begun)
        queue = GaugeMetricFamily("denoise_queue_images", "Images in work or waiting.", labels=["state"])
        queue.add_metric(["working"], schedule.in_work)
        queue.add_metric(["waiting"], schedule.waiting)
        yield queue
        pixels = GaugeMetricFamily("denoise_queue_pixels", "Theirs, not denoised yet.", labels=["state"])
        pixels.add_metric(["working"], schedule.pixels_in_work)
        pixels.add_metric(["waiting"], schedule.pixels_waiting)
        yield pixels
        held = GaugeMetricFamily("denoise_held_bytes", "Memory that counts as taken.", labels=["for"])
        held.add_metric(["images"], schedule.memory)
        held.add_metric(["bodies"], schedule.body_bytes)
        yield held
        weights = InfoMetricFamily("denoise_weights", "The weights in service.", labels=["name"])
        for name, model in models.by_name.items():
            weights.add_metric([name], {"digest": model.digest})
        yield weights
        faults = len(models.faults)
        yield GaugeMetricFamily("denoise_weights_faults", "Weights files that are not what is served.", faults)
