"""Statistics of the cache over all serving processes: what the API shows, for Python, too."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from cache_app.conf import cache_settings
from cache_app.core.codec import CodecStats
from plugins import ModelNotFound
from serving_app import process_statistics, wiring
from serving_app.core.request_counts import MISS, NEGATIVE, RecommenderStats
from serving_app.models import ServedModel
from serving_app.reconciler import process_name

__all__ = ["cache_statistics"]


def cache_statistics(model_name: str | None = None) -> dict[str, Any]:
    """Return what all serving processes, and this one, counted of the cache, as JSON values.

    What other processes counted is up to two seconds old. The names are those of
    ``GET /api/v1/cache/stats``, which shows just this.

    Args:
        model_name: Of which model to return ``models``; None: of all that were asked.

    Raises:
        ModelNotFound: There is no such model.
        DatabaseError: What other processes counted cannot be read.
    """
    serving = wiring.get_serving()
    told = process_statistics.others(process_name())
    statistics = process_statistics.of_all(
        process_statistics.own(serving.live, serving.recommender), told
    )
    models: Mapping[str, RecommenderStats] = statistics.models
    if model_name is not None:
        if model_name not in models and not ServedModel.objects.filter(name=model_name).exists():
            raise ModelNotFound(f"There is no model {model_name[:100]!r}.")
        models = {model_name: models.get(model_name) or RecommenderStats.merged([])}
    levels = process_statistics.cache_of_all(process_statistics.own_cache(), told)
    for name, counted in levels.items():
        counted["hit_rate"] = _rate(counted["hits"], counted["misses"])
        if name in statistics.codecs:
            counted["codec"] = _codec(statistics.codecs[name])
    partitions = process_statistics.partitions_of_all(process_statistics.own_partitions(), told)
    return {
        "process": process_name(),
        "processes": sorted([process_name(), *(row.process for row in told)]),
        "namespace": cache_settings().namespace,
        "levels": levels,
        "l1_segments": {
            name: {**counted, "hit_rate": _rate(counted["hits"], counted["misses"])}
            for name, counted in sorted(partitions.items())
        },
        "drift": process_statistics.drift_of_all(serving.drift.counts(), told),
        "models": {name: _model(stats) for name, stats in sorted(models.items())},
        "negative": dataclasses.asdict(statistics.negative),
        "leases": statistics.leases and dataclasses.asdict(statistics.leases),
    }


def _model(stats: RecommenderStats) -> dict[str, Any]:
    """Return the look-ups of a model, and of each segment of its users."""
    everyone: Counter[str] = Counter()
    for counted in stats.lookups.values():
        everyone.update(counted)
    segments = {name: _lookups(counted) for name, counted in sorted(stats.lookups.items())}
    return {**_lookups(everyone), "segments": segments}


def _lookups(counted: Mapping[str, int]) -> dict[str, Any]:
    by_level = {name: n for name, n in sorted(counted.items()) if name not in {MISS, NEGATIVE}}
    hits, misses = sum(by_level.values()), counted.get(MISS, 0)
    return {
        "hits": hits,
        "misses": misses,
        "negative": counted.get(NEGATIVE, 0),
        "hit_rate": _rate(hits, misses),
        "by_level": by_level,
    }


def _rate(hits: int, misses: int) -> float | None:
    return hits / (hits + misses) if hits + misses else None


def _codec(stats: CodecStats) -> dict[str, Any]:
    """Return what the values of a level weigh and cost, as bytes."""
    read = stats.decoded + sum(stats.unreadable.values())
    return {
        "encoded": stats.encoded,
        "decoded": stats.decoded,
        "unreadable": stats.unreadable,
        "raw_bytes": stats.raw_bytes,
        "stored_bytes": stats.stored_bytes,
        "ratio": round(stats.stored_bytes / stats.raw_bytes, 4) if stats.raw_bytes else None,
        "encode_us": _mean_microseconds(stats.encode_seconds, stats.encoded),
        "decode_us": _mean_microseconds(stats.decode_seconds, read),
    }


def _mean_microseconds(seconds: float, times: int) -> float | None:
    return round(seconds / times * 1e6, 2) if times else None
