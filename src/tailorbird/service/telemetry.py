"""Prometheus metrics; none of them holds a photo's content or name."""

from __future__ import annotations

import datetime
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)
from prometheus_client.core import GaugeMetricFamily, Metric

from tailorbird.corrections import NONE_OF_THESE

# Fine buckets for quick answers; the last one is the default deadline.
_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30)


class Telemetry:
    """Metrics of one process; with several workers prometheus_client adds them up through files."""

    def __init__(self) -> None:
        self._several = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self._registry = CollectorRegistry()
        options: dict[str, Any] = {"registry": self._registry, "namespace": "tailorbird"}
        self._requests = Counter(
            "http_requests",
            "Requests by route, method and status.",
            ("route", "method", "status"),
            **options,
        )
        self._seconds = Histogram(
            "http_request_seconds",
            "Time from a request's arrival to the end of its response.",
            ("route",),
            buckets=_SECONDS,
            **options,
        )
        self._photos = Counter(
            "photos",
            "Photos by outcome: answered, unsure, unfamiliar, or the code of a refusal.",
            ("outcome",),
            **options,
        )
        self._labels = Counter("predictions", "Predictions by class.", ("label",), **options)
        self._decode = Histogram(
            "decode_seconds", "Decoding and resizing one photo.", buckets=_SECONDS, **options
        )
        self._run = Histogram(
            "inference_seconds", "Running the model on one batch.", buckets=_SECONDS, **options
        )
        self._batch = Histogram(
            "batch_photos", "Photos in one run.", buckets=(1, 2, 3, 4, 6, 8, 12, 16, 32), **options
        )
        self._dropped = Counter(
            "dropped_photos", "Photos dropped before inference: expired or abandoned.", **options
        )
        self._reloads = Counter(
            "model_reloads",
            "Reloads by result: changed, unchanged, refused.",
            ("result",),
            **options,
        )
        self._stored = Counter(
            "corrections_stored",
            "Corrections by result: stored or the code of a refusal.",
            ("result",),
            **options,
        )
        self._candidate = Counter(
            "candidate_photos",
            "Photos offered to the candidate by outcome: answered, dropped, failed.",
            ("outcome",),
            **options,
        )
        self._waiting = Gauge(
            "photos_waiting",
            "Photos accepted and not yet answered.",
            multiprocess_mode="livesum",
            **options,
        )
        self.ready = Gauge(
            "ready", "Processes that accept requests.", multiprocess_mode="livesum", **options
        )

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def photo(self, outcome: str, label: str | None = None) -> None:
        """Count a photo that was answered with `label`, or refused."""
        self._photos.labels(outcome).inc()
        if label is not None:
            self._labels.labels(label).inc()

    def decoded(self, seconds: float) -> None:
        """Record the time that decoding a photo took."""
        self._decode.observe(seconds)

    def ran(self, photos: int, seconds: float) -> None:
        """Record a batch that was classified."""
        self._batch.observe(photos)
        self._run.observe(seconds)

    def waits(self, photos: int) -> None:
        """Set the number of photos that are accepted and not yet answered."""
        self._waiting.set(photos)

    def dropped(self, photos: int) -> None:
        """Count photos that left the queue unanswered."""
        self._dropped.inc(photos)

    def reloaded(self, result: str) -> None:
        """Count a reload by its result."""
        self._reloads.labels(result).inc()

    def correction(self, result: str) -> None:
        """Count a correction by its result."""
        self._stored.labels(result).inc()

    def candidate(self, outcome: str) -> None:
        """Count a photo that was offered to the candidate."""
        self._candidate.labels(outcome).inc()

    def text(self, extra: Iterable[Metric] = ()) -> bytes:
        """Return all metrics in the exposition format, followed by `extra`."""
        registry = CollectorRegistry()
        if self._several:
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        else:
            registry = self._registry
        return generate_latest(registry) + generate_latest(_collected(extra))


def _collected(metrics: Iterable[Metric]) -> CollectorRegistry:
    registry = CollectorRegistry()

    class Computed:
        def collect(self) -> Iterable[Metric]:
            return metrics

    registry.register(Computed())
    return registry


def accuracy_metrics(
    counts: Mapping[tuple[str, bool], int] | None,
    model: str,
    sha256: str,
    classes: Collection[str],
) -> list[Metric]:
    """Return gauges of the served model and of people's answers by class.

    counts: {(label, right): answers}; None while the database does not answer.
    classes: of the served model. Other answers are one label, so that what strangers type cannot
        become any number of time series.
    """
    info = GaugeMetricFamily(
        "tailorbird_model_info", "The model being served.", labels=("name", "sha256")
    )
    info.add_metric((model, sha256), 1)
    up = GaugeMetricFamily("tailorbird_corrections_up", "1 while the corrections database answers.")
    up.add_metric((), 0 if counts is None else 1)
    answers = GaugeMetricFamily(
        "tailorbird_corrections",
        "Photos that people answered about, by true class and whether the model was right; "
        "_new_ for what is no class of the model, _none_of_these_ for none of them.",
        labels=("label", "right"),
    )
    accuracy = GaugeMetricFamily(
        "tailorbird_accuracy_in_use",
        "Share of answers for which the model was right, by true class; _all_ for all classes.",
        labels=("label",),
    )
    totals: dict[str, list[int]] = {}
    grouped: dict[tuple[str, bool], int] = defaultdict(int)
    for (label, right), count in (counts or {}).items():
        other = "_none_of_these_" if label == NONE_OF_THESE else "_new_"
        grouped[label if label in classes else other, right] += count
    for (label, right), count in sorted(grouped.items()):
        answers.add_metric((label, "yes" if right else "no"), count)
        for key in (label, "_all_"):
            total = totals.setdefault(key, [0, 0])
            total[0] += count * right
            total[1] += count
    for label, (right_count, total_count) in totals.items():
        accuracy.add_metric((label,), right_count / total_count)
    return [info, up, answers, accuracy]


def uploads_metrics(report: Mapping[str, Any] | None) -> list[Metric]:
    """Return gauges of what the corrections database has counted of the served model's uploads.

    report: of `uploads_report`; None gives no gauge, without a database or while it does not
        answer.
    """
    if report is None:
        return []
    counted = GaugeMetricFamily(
        "tailorbird_uploads",
        "Different photos of the last 90 days by outcome: answered, unsure, unfamiliar.",
        labels=("outcome",),
    )
    others = {name: report[name] for name in ("unsure", "unfamiliar") if report[name] is not None}
    counted.add_metric(("answered",), report["photos"] - sum(others.values()))
    for outcome, photos in others.items():
        counted.add_metric((outcome,), photos)
    gauges = {
        "changed": "1 where uploads differ from the validation photos by more than chance.",
        "distance": "Share of the uploads that are in another bin than expected, 0 to 1.",
        "compared": "Uploads compared; since the change where there is one.",
        "since_seconds": "Start of the day of the change, since 1970; absent without a change.",
    }
    families = {
        name: GaugeMetricFamily(f"tailorbird_drift_{name}", text, labels=("measure",))
        for name, text in gauges.items()
    }
    for change in report["drift"]:
        key = (change["measure"],)
        families["changed"].add_metric(key, change["changed"])
        families["distance"].add_metric(key, change["distance"])
        families["compared"].add_metric(key, change["photos"])
        if change["changed"]:
            day = datetime.datetime.fromisoformat(change["since"]).replace(tzinfo=datetime.UTC)
            families["since_seconds"].add_metric(key, day.timestamp())
    return [counted, *families.values()]
