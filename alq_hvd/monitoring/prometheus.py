"""``metrics()`` for Prometheus: over HTTP, or as a file for the node exporter; the text is prometheus-client's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alq_hvd import backends


@dataclass(frozen=True, slots=True)
class _Family:
    """Describe one metric: the key of ``metrics()`` it comes from, and whether it only grows."""

    key: str
    name: str
    help: str
    grows: bool = False


_OF_RANK = (
    _Family("step", "alq_hvd_steps", "Completed steps.", True),
    _Family("bytes_total", "alq_hvd_sent_bytes", "Bytes that this rank has sent for gradients.", True),
    _Family("bytes_per_step", "alq_hvd_step_sent_bytes", "Bytes that this rank sent in the last step."),
    _Family("compressed_elements", "alq_hvd_compressed_elements", "Gradient elements that are compressed in a step."),
    _Family("passed_through_elements", "alq_hvd_passed_through_elements", "Those that Horovod reduces as they are."),
)
_OF_SHOT = (
    _Family("relative_variance", "alq_hvd_relative_variance", "Latest E|Q(g)-g|^2/|g|^2 of what this rank quantised."),
    _Family("levels_version", "alq_hvd_levels_version", "How often levels were fitted."),
    _Family("fit_is_due", "alq_hvd_fit_is_due", "1 while a scheduled fit could not be done yet."),
)


class PrometheusMetrics:
    """A collector of prometheus-client that shows the latest ``metrics()`` it was given.

    ``update`` belongs into the training loop; ``prometheus_client.start_http_server(port)`` then answers from a thread
    of its own, and reads nothing that training changes.

    Args:
        labels: of every sample, such as the rank.
        registry: where to register; prometheus-client's global one when ``None``.

    Raises:
        BackendUnavailable: when the package prometheus-client is missing.
    """

    def __init__(self, labels: Mapping[str, str] | None = None, registry: Any = None) -> None:
        self._client = backends.require("prometheus_client")
        self._labels = dict(labels or {})
        self._latest: Mapping[str, Any] | None = None
        self._registry = self._client.REGISTRY if registry is None else registry
        self._registry.register(self)

    def update(self, metrics: Mapping[str, Any]) -> None:
        """Show these from now on."""
        self._latest = metrics

    def text(self) -> str:
        """Return all metrics of the registry in Prometheus's text format."""
        return str(self._client.generate_latest(self._registry).decode())

    def write(self, path: str | Path) -> None:
        """Replace the file ``path`` by that text, in one indivisible act, as the node exporter's collector wants."""
        self._client.write_to_textfile(str(path), self._registry)

    def collect(self) -> Iterator[Any]:
        """Yield the metrics; prometheus-client calls it, from any thread."""
        latest = self._latest
        if latest is None:
            return
        for each in _OF_RANK:
            yield self._family(each, [((), latest)], ())
        shots = [((str(place),), shot) for place, shot in enumerate([latest, *latest["later_shots"]])]
        for each in _OF_SHOT:
            yield self._family(each, shots, ("shot",))
        seconds = _Family("", "alq_hvd_seconds", "Seconds of this rank, by phase of a step.", True)
        phases = [((phase,), {"": value}) for phase, value in latest["seconds"].items()]
        yield self._family(seconds, phases, ("phase",))
        about = {name: str(latest[name]) for name in ("method", "bits", "exchange")}
        information = _Family("", "alq_hvd_compression_info", "What compresses; the value says nothing.")
        yield self._family(information, [(tuple(about.values()), {"": 1})], tuple(about))

    def _family(self, family: _Family, samples: list[Any], labels: tuple[str, ...]) -> Any:
        core = backends.require("prometheus_client.core")
        make = core.CounterMetricFamily if family.grows else core.GaugeMetricFamily
        made = make(family.name, family.help, labels=[*self._labels, *labels])
        for values, source in samples:
            if source.get(family.key) is not None:
                made.add_metric([*self._labels.values(), *values], float(source[family.key]))
        return made
