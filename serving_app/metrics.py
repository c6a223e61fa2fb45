"""Metrics of all processes, which each tells to the database; rendered for Prometheus.

Whichever process answers, first tells its own, and then reads everybody's: so no counter falls
between two scrapes that different processes answer.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from datetime import timedelta

from django.db import transaction
from django.utils import timezone
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)

from serving_app.core.metrics import (
    Buckets,
    Family,
    Monotone,
    Samples,
    from_json,
    merged,
    to_json,
    without_gauges,
)
from serving_app.metric_families import FAMILIES
from serving_app.metric_models import ProcessMetrics

__all__ = ["Teller", "of_all", "render"]

GONE = 60.0
"""Seconds without a sign of life after which a process's gauges no longer count."""
KEPT = 3600.0
"""Seconds after which what it counted is added to what all that are gone counted."""


class Teller:
    """Tells one process's samples. Any thread tells.

    Its name is its own: another process may have its host and id later.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._monotone = Monotone(FAMILIES)
        self._name = ""

    def tell(self, samples: Samples) -> None:
        """Let the others know what this process counted."""
        with self._lock:  # an older count must not be written after a newer one
            if not self._name:
                self._name = f"{os.getpid()}-{secrets.token_hex(8)}"
            told = to_json(self._monotone.add(samples))
            ProcessMetrics.objects.update_or_create(
                process=self._name, defaults={"seen": timezone.now(), "samples": told}
            )
        old = timezone.now() - timedelta(seconds=KEPT)
        if ProcessMetrics.objects.filter(seen__lt=old).exclude(process=_ALL_GONE).exists():
            _fold(ProcessMetrics.objects.filter(seen__lt=old))

    def tell_engine(self, name: str, samples: Samples) -> None:
        """Let the others know what an engine counted that several processes use.

        It is told under its own name, so that it counts once. Whoever asked it later knows more.
        """
        with transaction.atomic():
            row, is_new = ProcessMetrics.objects.get_or_create(
                process=name, defaults={"seen": timezone.now(), "samples": to_json(samples)}
            )
            if not is_new:
                row = ProcessMetrics.objects.select_for_update().get(pk=row.pk)
                if _batches(from_json(row.samples)) <= _batches(samples):
                    row.samples = to_json(samples)
                row.seen = timezone.now()
                row.save(update_fields=["samples", "seen"])

    def leave(self) -> None:
        """Leave what this process counted to the others: it is ending."""
        with self._lock:
            if self._name:
                _fold(ProcessMetrics.objects.filter(process=self._name))
                self._name = ""
                self._monotone = Monotone(FAMILIES)


_ALL_GONE = ""


def _batches(samples: Samples) -> float:
    """Return how many batches an engine had run when it was asked."""
    values = samples.get("recserve_batches_total", {}).values()
    return sum(value for value in values if not isinstance(value, Buckets))


def _fold(rows: ProcessMetrics.Rows) -> None:
    """Add what processes that are gone counted to one row."""
    with transaction.atomic():
        gone, _ = ProcessMetrics.objects.get_or_create(
            process=_ALL_GONE, defaults={"seen": timezone.now(), "samples": {}}
        )
        gone = ProcessMetrics.objects.select_for_update().get(pk=gone.pk)
        leaving = list(rows.exclude(process=_ALL_GONE).select_for_update())
        parts = [from_json(row.samples) for row in (gone, *leaving)]
        gone.samples = to_json(without_gauges(merged(parts, FAMILIES), FAMILIES))
        gone.save(update_fields=["samples"])
        ProcessMetrics.objects.filter(pk__in=[row.pk for row in leaving]).delete()


def of_all() -> Samples:
    """Return the samples of all processes, those that are gone included, as one's."""
    alive = timezone.now() - timedelta(seconds=GONE)
    parts = []
    for row in ProcessMetrics.objects.all():
        samples = from_json(row.samples)
        parts.append(samples if row.seen >= alive else without_gauges(samples, FAMILIES))
    return merged(parts, FAMILIES)


class _Collector:
    """What prometheus-client renders."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        for family in FAMILIES.values():
            metric = _metric(family)
            for labels, value in sorted(self._samples.get(family.name, {}).items()):
                if isinstance(value, Buckets):
                    assert isinstance(metric, HistogramMetricFamily), family.name
                    metric.add_metric(labels, _cumulated(value, family.bounds), value.total)
                else:
                    metric.add_metric(labels, value)  # type: ignore[attr-defined]  # all have it
            yield metric


def _metric(family: Family) -> Metric:
    if family.kind == "histogram":
        return HistogramMetricFamily(family.name, family.help, labels=family.labels)
    if family.kind == "gauge":
        return GaugeMetricFamily(family.name, family.help, labels=family.labels)
    if family.name.endswith("_total"):
        return CounterMetricFamily(family.name, family.help, labels=family.labels)
    # Triton's counters have no such ending, and the library would add it.
    return UnknownMetricFamily(family.name, family.help, labels=family.labels)


def _cumulated(value: Buckets, bounds: tuple[float, ...]) -> list[tuple[str, float]]:
    """Return the buckets as Prometheus has them: each holds those below it."""
    known, seen = [], 0
    for bound in sorted({*bounds, *value.counts}):
        seen += value.counts.get(bound, 0)
        if bound != float("inf"):
            known.append((f"{bound:.4g}", float(seen)))
    return [*known, ("+Inf", float(seen))]


def render(samples: Samples) -> bytes:
    """Return samples in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(samples))
    return generate_latest(registry)
