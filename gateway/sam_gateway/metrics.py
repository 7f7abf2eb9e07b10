"""Counters of a gateway, in a registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

# From a decode on a held embedding to a large encoder on a slow CPU.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 90)


class Metrics:
    """What `GET /metrics` shows."""

    def __init__(self) -> None:
        """Begin at zero."""
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "sam_gateway_requests", "Requests.", ["route", "status"], registry=self._registry
        )
        self.request_seconds = Histogram(
            "sam_gateway_request_seconds",
            "Time to answer a request.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.failures = Counter(
            "sam_gateway_failures", "Requests that failed.", ["reason"], registry=self._registry
        )
        self.image_bytes = Counter(
            "sam_gateway_image_bytes", "Bytes of images fetched.", registry=self._registry
        )
        self.embeds = Counter(
            "sam_gateway_embeds", "Images sent to the worker.", registry=self._registry
        )
        self.decodes = Counter(
            "sam_gateway_decodes", "Objects decoded by the worker.", registry=self._registry
        )
        self.superseded = Counter(
            "sam_gateway_superseded",
            "Clicks that a newer one made useless.",
            registry=self._registry,
        )
        self.worker_starts = Counter(
            "sam_gateway_worker_starts", "Starts of the own worker.", registry=self._registry
        )

    def totals(self) -> dict[str, int]:
        """Return the counters without labels, each by its short name."""
        return {
            sample.name.removeprefix("sam_gateway_").removesuffix("_total"): int(sample.value)
            for metric in self._registry.collect()
            for sample in metric.samples
            if sample.name.endswith("_total") and not sample.labels
        }

    def exposition(self) -> bytes:
        """Return all values in the text format of Prometheus."""
        return generate_latest(self._registry)
