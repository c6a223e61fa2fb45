"""Every metric that recserve exports, and how a process's statistics become its samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from serving_app.core.batcher import BatcherStats
from serving_app.core.http_counts import HttpCounts
from serving_app.core.metrics import LATENCY_BOUNDS, Buckets, Family, Samples, latencies
from serving_app.core.request_counts import RecommenderStats
from serving_app.core.statistics import Statistics
from serving_app.core.warmup_counts import WARM_UP

__all__ = ["FAMILIES", "collected", "of_engines_elsewhere"]

_VERSION = ("model", "version")
_LEVEL_COUNTS = {
    "hits": "Look-ups that a level answered.",
    "misses": "Look-ups that it did not.",
    "insertions": "Values stored.",
    "evictions": "Values that made room for others.",
    "expirations": "Expired values found and dropped.",
    "promotions": "Values copied up from the level below.",
    "errors": "Calls that the level did not answer.",
}

_ALL = (
    Family("recserve_processes", "gauge", "Serving processes that are alive."),
    Family(
        "recserve_requests_total",
        "counter",
        "Recommendations by source: model, a level of the cache, or fallback.",
        ("model", "source"),
    ),
    Family(
        "recserve_request_errors_total",
        "counter",
        "Requests for a recommendation that were refused or failed, by error.",
        ("model", "error"),
    ),
    Family(
        "recserve_stale_answers_total", "counter", "Recommendations that were stale.", ("model",)
    ),
    Family(
        "recserve_degraded_answers_total",
        "counter",
        "Recommendations that stood in for a model that could not answer.",
        ("model",),
    ),
    Family(
        "recserve_request_duration_seconds",
        "histogram",
        "From a request for a recommendation to its answer.",
        ("model",),
    ),
    Family("recserve_batches_total", "counter", "Batches run.", _VERSION),
    Family("recserve_batch_failures_total", "counter", "Batches that failed.", _VERSION),
    Family("recserve_queue_rejections_total", "counter", "Refused: the queue was full.", _VERSION),
    Family("recserve_batch_size", "histogram", "Rows in a batch.", _VERSION),
    Family("recserve_queue_duration_seconds", "histogram", "Waiting for a batch.", _VERSION),
    Family("recserve_model_duration_seconds", "histogram", "Running a batch.", _VERSION),
    Family("recserve_queue_length", "gauge", "Rows that wait now.", _VERSION),
    Family("recserve_running_batches", "gauge", "Batches that run now.", _VERSION),
    Family("recserve_live_processes", "gauge", "Processes where it is live.", _VERSION),
    *(
        Family(f"recserve_cache_{name}_total", "counter", help_, ("level",))
        for name, help_ in _LEVEL_COUNTS.items()
    ),
    Family(
        "recserve_cache_entries", "gauge", "Entries of a level that is shared.", ("level",), "max"
    ),
    Family("recserve_cache_l1_entries", "gauge", "Entries of L1, in all processes."),
    Family(
        "recserve_lookups_total",
        "counter",
        "How look-ups in the cache ended, by the user's segment: at a level, miss or negative.",
        ("model", "segment", "result"),
    ),
    Family(
        "recserve_segment_l1_entries",
        "gauge",
        "Entries of L1 by the segment that has a share of it, in all processes; all: the others.",
        ("segment",),
    ),
    Family(
        "recserve_cache_level_up",
        "gauge",
        "1 while every process reaches the level, else 0.",
        ("level",),
        "min",
    ),
    Family(
        "recserve_activity_dropped_total",
        "counter",
        "Requests that activity left out: too many at once, too long a context, or not written.",
    ),
    Family(
        "recserve_log_lines_dropped_total",
        "counter",
        "Lines of the access log left out, as whatever takes it is too slow.",
    ),
    Family("recserve_warmup_runs_total", "counter", "Warm-ups that ended.", ("schedule", "state")),
    Family(
        "recserve_warmup_questions_total",
        "counter",
        "Questions that warm-ups dealt with: warmed, fresh already, refused, or an error.",
        ("schedule", "outcome"),
    ),
    Family(
        "recserve_warmup_model_seconds_total",
        "counter",
        "The model's time for what was warmed.",
        ("schedule",),
    ),
    Family(
        "recserve_warmup_hits_earned_total",
        "counter",
        "Warmed questions that were asked while the answer was fresh.",
        ("schedule",),
    ),
    Family(
        "recserve_warmup_model_seconds_saved_total",
        "counter",
        "The model's time for those.",
        ("schedule",),
    ),
    Family(
        "recserve_plugin_failures_total",
        "counter",
        "What a part of a plugin raised, or returned that it must not.",
        ("plugin", "part"),
    ),
    Family(
        "recserve_plugin_parts_off",
        "gauge",
        "Processes in which a part of a plugin is switched off.",
        ("plugin", "part"),
    ),
    Family("recserve_alerts_firing", "gauge", "Alerts that fire.", ("severity",), "max"),
    Family(
        "recserve_drift_decisions_total",
        "counter",
        "Decisions on users with new events or features: keep, refresh, drop; failed: the rule.",
        ("segment", "action"),
    ),
    Family(
        "recserve_http_requests_total",
        "counter",
        "HTTP requests; status 0: no answer began.",
        ("method", "route", "status"),
    ),
    Family(
        "recserve_http_request_duration_seconds",
        "histogram",
        "HTTP requests, from their head to the end of the answer.",
        ("method", "route"),
    ),
    Family(
        "nv_inference_request_success", "counter", "Requests that the model answered.", _VERSION
    ),
    Family(
        "nv_inference_request_failure",
        "counter",
        "Requests refused (REJECTED), failed by the model (BACKEND), or too late (OTHER).",
        (*_VERSION, "reason"),
    ),
    Family("nv_inference_count", "counter", "Rows run.", _VERSION),
    Family("nv_inference_exec_count", "counter", "Runs of the model.", _VERSION),
    Family(
        "nv_inference_request_duration_us",
        "counter",
        "Queue time of all requests, and model time of all rows.",
        _VERSION,
    ),
    Family("nv_inference_queue_duration_us", "counter", "Queue time of all requests.", _VERSION),
    Family(
        "nv_inference_compute_infer_duration_us",
        "counter",
        "Model time of all rows; each row has that of its run.",
        _VERSION,
    ),
    Family("nv_inference_pending_request_count", "gauge", "Requests that wait now.", _VERSION),
)
_SIZES = tuple(float(2**n) for n in range(11))
FAMILIES: Mapping[str, Family] = {
    family.name: replace(
        family, bounds=_SIZES if family.name == "recserve_batch_size" else LATENCY_BOUNDS
    )
    if family.kind == "histogram"
    else family
    for family in _ALL
}
"""By name. The ``nv_`` names are those of the Triton Inference Server, for its dashboards."""


def collected(
    statistics: Statistics,
    levels: Mapping[str, Mapping[str, Any]],
    http: HttpCounts,
    *,
    process: str,
    activity_dropped: int = 0,
    log_dropped: int = 0,
    partitions: Mapping[str, Mapping[str, Any]] | None = None,
    alerts: Mapping[str, int] | None = None,
    drift: Mapping[tuple[str, str], int] | None = None,
) -> Samples:
    """Return the samples of one process, those of engines in other processes left out."""
    samples: Samples = {name: {} for name in FAMILIES}
    samples["recserve_processes"][()] = 1.0
    samples["recserve_activity_dropped_total"][()] = activity_dropped
    samples["recserve_log_lines_dropped_total"][()] = log_dropped
    for family, of_schedules in WARM_UP.samples().items():
        samples[family].update(of_schedules)
    for severity, n in (alerts or {}).items():
        samples["recserve_alerts_firing"][(severity,)] = n
    for model, stats in statistics.models.items():
        _of_model(samples, model, stats)
    for model, numbers in statistics.versions.items():
        for number, version in numbers.items():
            labels = (model, str(number))
            samples["recserve_live_processes"][labels] = version.processes
            own = [each for name, each in version.engines.items() if _is_in(process, name)]
            if own:
                _of_version(samples, labels, BatcherStats.merged(own))
    for level, counts in levels.items():
        _of_level(samples, level, counts)
    for of_drift, n in (drift or {}).items():
        samples["recserve_drift_decisions_total"][of_drift] = n
    for segment, counts in (partitions or {}).items():
        samples["recserve_segment_l1_entries"][(segment,)] = counts["entries"]
    _of_plugins(samples, statistics)
    for key, n in http.counts().items():
        samples["recserve_http_requests_total"][key] = n
    for route, seconds in http.seconds().items():
        samples["recserve_http_request_duration_seconds"][route] = latencies(seconds)
    return samples


def _lookups(
    model: str, by_segment: Mapping[str, Mapping[str, int]]
) -> dict[tuple[str, ...], float | Buckets]:
    return {
        (model, segment, result): n
        for segment, ends in by_segment.items()
        for result, n in ends.items()
    }


def of_engines_elsewhere(statistics: Statistics, *, process: str) -> dict[str, Samples]:
    """Return, by its name, the samples of each engine that a process uses in another one."""
    engines: dict[str, Samples] = {}
    for model, numbers in statistics.versions.items():
        for number, version in numbers.items():
            for name, stats in version.engines.items():
                if name and not _is_in(process, name):
                    samples = engines[name] = {family: {} for family in FAMILIES}
                    _of_version(samples, (model, str(number)), stats)
    return engines


def _is_in(process: str, engine: str) -> bool:
    return engine.startswith(f"{process}/")


def _of_plugins(samples: Samples, statistics: Statistics) -> None:
    for plugin, parts in statistics.plugins.items():
        for part, failures in parts.items():
            samples["recserve_plugin_failures_total"][plugin, part] = failures.failures
            samples["recserve_plugin_parts_off"][plugin, part] = failures.off


def _of_model(samples: Samples, model: str, stats: RecommenderStats) -> None:
    for source, n in stats.by_source.items():
        samples["recserve_requests_total"][model, source] = n
    for error, n in stats.errors.items():
        samples["recserve_request_errors_total"][model, error] = n
    samples["recserve_stale_answers_total"][(model,)] = stats.stale
    samples["recserve_degraded_answers_total"][(model,)] = stats.degraded
    samples["recserve_request_duration_seconds"][(model,)] = latencies(stats.seconds)
    samples["recserve_lookups_total"].update(_lookups(model, stats.lookups))


def _of_version(samples: Samples, labels: tuple[str, str], stats: BatcherStats) -> None:
    rows = stats.runs.rows
    queue = stats.queue_seconds.total
    of_rows = sum(size * each.infer_seconds for size, each in stats.runs.by_size.items())
    sizes = {float(size): n for size, n in stats.batch_sizes.items()}
    values: dict[str, float | Buckets] = {
        "recserve_batches_total": stats.batches,
        "recserve_batch_failures_total": stats.failed_batches,
        "recserve_queue_rejections_total": stats.rejected,
        "recserve_batch_size": Buckets(sizes, float(rows)),
        "recserve_queue_duration_seconds": latencies(stats.queue_seconds),
        "recserve_model_duration_seconds": latencies(stats.model_seconds),
        "recserve_queue_length": stats.queued,
        "recserve_running_batches": stats.running,
        "nv_inference_request_success": stats.total_seconds.count,
        "nv_inference_count": rows,
        "nv_inference_exec_count": stats.runs.runs,
        "nv_inference_request_duration_us": (queue + of_rows) * 1e6,
        "nv_inference_queue_duration_us": queue * 1e6,
        "nv_inference_compute_infer_duration_us": of_rows * 1e6,
        "nv_inference_pending_request_count": stats.queued,
    }
    for name, value in values.items():
        samples[name][labels] = value
    failures = samples["nv_inference_request_failure"]
    failures[*labels, "REJECTED"] = stats.rejected
    failures[*labels, "BACKEND"] = stats.runs.failed
    failures[*labels, "OTHER"] = max(0, stats.failed_seconds.count - stats.runs.failed)


def _of_level(samples: Samples, level: str, counts: Mapping[str, Any]) -> None:
    for name in _LEVEL_COUNTS:
        samples[f"recserve_cache_{name}_total"][(level,)] = counts.get(name, 0)
    samples["recserve_cache_level_up"][(level,)] = 0.0 if counts.get("away") else 1.0
    if level == "l1":
        samples["recserve_cache_l1_entries"][()] = counts.get("entries", 0)
    else:
        samples["recserve_cache_entries"][(level,)] = counts.get("entries", 0)
