"""Statistics of versions, over all serving processes, as Triton's extension words them.

Of the identities that the extension promises, these hold exactly: the sizes of batches times their
runs add up to ``inference_count``, and their runs to ``execution_count``.
"""

from __future__ import annotations

from typing import Any

from serving_app import process_statistics, wiring
from serving_app.api.open_inference.answers import Answer, as_json
from serving_app.api.open_inference.asked import Asked
from serving_app.core.batcher_stats import BatcherStats
from serving_app.core.run_counts import SizeCounts
from serving_app.core.statistics import Statistics
from serving_app.reconciler import process_name

__all__ = ["model_statistics", "statistics"]


def statistics(asked: Asked) -> Answer:
    """Return the statistics of all models that the caller may ask."""
    access = asked.permit("operate")
    found = _of_all()
    names = [name for name in found.versions if access.models is None or name in access.models]
    return as_json({"model_stats": [each for name in sorted(names) for each in _of(found, name)]})


def model_statistics(asked: Asked) -> Answer:
    """Return the statistics of one model, or of one version of it."""
    asked.permit("operate")
    with asked.lease():
        pass  # there is such a model
    entries = _of(_of_all(), asked.model)
    if asked.number:
        entries = [each for each in entries if each["version"] == asked.number]
    return as_json({"model_stats": entries})


def _of_all() -> Statistics:
    serving = wiring.get_serving()
    own = process_statistics.own(serving.live, serving.recommender, serving.shadows)
    return process_statistics.of_all(own, process_statistics.others(process_name()))


def _of(found: Statistics, name: str) -> list[dict[str, Any]]:
    return [
        _version(name, number, version.batching)
        for number, version in sorted(found.versions.get(name, {}).items())
    ]


def _version(name: str, number: int, stats: BatcherStats) -> dict[str, Any]:
    runs = stats.runs
    rows, sizes = runs.rows, runs.by_size.items()
    succeeded, failed = stats.total_seconds, stats.failed_seconds
    memory = [] if stats.memory is None else [{"type": "CPU", "id": 0, "byte_size": stats.memory}]
    return {
        "name": name,
        "version": str(number),
        "last_inference": round(runs.last * 1000),
        "inference_count": rows,
        "execution_count": runs.runs,
        "inference_stats": {
            "success": _duration(succeeded.count, succeeded.total),
            "fail": _duration(failed.count + stats.rejected, failed.total),
            "queue": _duration(stats.queue_seconds.count, stats.queue_seconds.total),
            "compute_input": _duration(rows, sum(n * c.input_seconds for n, c in sizes)),
            "compute_infer": _duration(rows, sum(n * c.infer_seconds for n, c in sizes)),
            "compute_output": _duration(rows, sum(n * c.output_seconds for n, c in sizes)),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "response_stats": {},
        "batch_stats": [_batch(size, counts) for size, counts in sizes],
        "memory_usage": memory,
    }


def _batch(size: int, counts: SizeCounts) -> dict[str, Any]:
    return {
        "batch_size": size,
        "compute_input": _duration(counts.runs, counts.input_seconds),
        "compute_infer": _duration(counts.runs, counts.infer_seconds),
        "compute_output": _duration(counts.runs, counts.output_seconds),
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}
