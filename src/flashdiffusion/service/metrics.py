"""What a service tells Prometheus."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
EVALUATIONS = (0, 1, 2, 3, 4, 5, 7, 10, 20, 50, 100, 200, 500, 1000)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServiceMetrics:
    """Counts of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=own)
        name = "flashdiffusion_"
        self.answers = Counter(f"{name}http_requests", "Answers by path and status.", ["path", "status"], registry=own)
        self.seconds = Histogram(
            f"{name}http_request_seconds", "Time to an answer.", ["path"], buckets=SECONDS, registry=own
        )
        self.requests = Counter(f"{name}restorations", "Accepted requests by how they ended.", ["ended"], registry=own)
        self.duration = Histogram(
            f"{name}restoration_seconds", "From acceptance to result.", buckets=SECONDS, registry=own
        )
        self.evaluations = Histogram(
            f"{name}denoiser_evaluations", "NFE of a restored image.", buckets=EVALUATIONS, registry=own
        )
        self.together = Histogram(f"{name}step_images", "Images that shared a step.", buckets=IMAGES, registry=own)
        self.pending = Gauge(f"{name}pending_requests", "Requests that are accepted and not done.", registry=own)
        self.jobs = Gauge(f"{name}jobs", "Jobs that are known: on their way, or with results.", registry=own)

    def watch(self, pending: Callable[[], float], jobs: Callable[[], float]) -> None:
        """Ask these when numbers are wanted."""
        self.pending.set_function(pending)
        self.jobs.set_function(jobs)

    def page(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)


class Measured:
    """Counts answers and their time."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            path = getattr(scope.get("route"), "path", "other")  # not what a user typed, of which there is no end
            self.metrics.answers.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - began)
