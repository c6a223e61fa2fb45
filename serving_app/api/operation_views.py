"""Health, statistics, and clearing the cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from django.db import DatabaseError
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from cache_app.core.keys import matcher
from cache_app.core.levels import LevelStats
from cache_app.invalidation import bounds, invalidate, invalidate_scopes
from cache_app.wiring import get_levels
from plugins import InvalidInput
from serving_app import process_statistics, wiring
from serving_app.api.authentication import access_of
from serving_app.api.invalidation import wanted_scopes
from serving_app.api.permissions import CanOperate
from serving_app.api.serializers import InvalidatedSerializer, InvalidateSerializer
from serving_app.cache_statistics import cache_statistics
from serving_app.conf import serving_settings
from serving_app.core.batcher import BatcherStats
from serving_app.core.latency import LatencySummary
from serving_app.core.live_models import PRODUCTION
from serving_app.core.request_counts import RecommenderStats
from serving_app.core.shadow import COMPARED, ShadowStats
from serving_app.core.statistics import Statistics
from serving_app.models import Alias
from serving_app.reconciler import process_name


class LiveView(APIView):
    """Liveness."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(responses={200: OpenApiTypes.OBJECT})
    def get(self, request: Request) -> Response:
        """Return 200 as long as the process answers at all."""
        return Response({"status": "ok"})


class ReadyView(APIView):
    """Readiness."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(responses={200: OpenApiTypes.OBJECT, 503: OpenApiTypes.OBJECT})
    def get(self, request: Request) -> Response:
        """Return 200 once everything that can be live is, 503 before."""
        ready = wiring.get_serving().reconciler.ready.is_set()
        return Response(
            {"status": "ok" if ready else "starting"},
            status=200 if ready else 503,
            headers={} if ready else {"Retry-After": "1"},
        )


class HealthView(APIView):
    """Health in detail."""

    permission_classes = (AllowAny,)

    @extend_schema(responses={200: OpenApiTypes.OBJECT})
    def get(self, request: Request) -> Response:
        """Return ``ok``, or ``degraded`` when something that should work does not.

        Operators also see which models and versions are live.
        """
        serving = wiring.get_serving()
        live = {
            (name, alias): version.record.version
            for name, routes in serving.live.routes().items()
            for alias, version in routes.aliases.items()
        }
        try:
            rows = Alias.objects.values_list("model__name", "name", "version__number")
            wanted = {(model, alias): number for model, alias, number in rows}
            database = "ok"
        except DatabaseError:
            wanted, database = {}, "down"
        ready = serving.reconciler.ready.is_set()
        cache = {name: _state(stats) for name, stats in get_levels().stats().items()}
        host = None if serving.host is None else serving.host.state()
        sound = (
            ready
            and host in {None, "ok"}
            and database == "ok"
            and wanted == live
            and all(state == "ok" for state in cache.values())
        )
        body: dict[str, Any] = {
            "status": "ok" if sound else "degraded",
            "ready": ready,
            "database": database,
            "models_live": len({name for name, _ in live}),
            "model_host": host,
            "cache": cache,
        }
        if database == "ok" and CanOperate().has_permission(request, self):
            seen = _seen(request, {name for name, _ in live.keys() | wanted.keys()})
            body["process"] = process_name()
            body["models"] = {
                name if alias == PRODUCTION else f"{name}@{alias}": {
                    "live": live.get((name, alias)),
                    "wanted": wanted.get((name, alias)),
                }
                for name, alias in sorted(live.keys() | wanted.keys())
                if name in seen
            }
        return Response(body)


def _state(stats: LevelStats) -> str:
    """Return ``ok``, or how a level is away."""
    if stats.away or (stats.nodes_away and stats.nodes_away == stats.nodes):
        return "away"
    state = getattr(stats, "state", "closed")  # of its breaker, where it has one
    if state != "closed":
        return str(state)
    return "partly_away" if stats.nodes_away else "ok"


class ServingStatsView(APIView):
    """Statistics of serving."""

    permission_classes = (CanOperate,)

    @extend_schema(responses={200: OpenApiTypes.OBJECT})
    def get(self, request: Request) -> Response:
        """Return requests, batches and latencies by model, summed over all serving processes."""
        serving = wiring.get_serving()
        told = process_statistics.others(process_name())
        statistics = process_statistics.of_all(
            process_statistics.own(serving.live, serving.recommender, serving.shadows), told
        )
        names = _seen(request, statistics.models.keys() | statistics.versions.keys())
        return Response(
            {
                "process": process_name(),
                "processes": sorted([process_name(), *(row.process for row in told)]),
                "models": {name: _model(statistics, name) for name in names},
            }
        )


def _seen(request: Request, names: Iterable[str]) -> list[str]:
    """Return, sorted, those models that the caller may see."""
    models = access_of(request).models_for("operate")
    return sorted(name for name in names if models is None or name in models)


def _model(statistics: Statistics, name: str) -> dict[str, Any]:
    """Return what was counted of one model."""
    stats = statistics.models.get(name) or RecommenderStats.merged([])
    return {
        "requests": stats.requests,
        "by_source": stats.by_source,
        "stale": stats.stale,
        "degraded": stats.degraded,
        "errors": stats.errors,
        "latency_ms": _milliseconds(stats.seconds.summary()),
        "versions": {
            str(number): {
                "framework": version.framework,
                "processes": version.processes,
                **_batching(version.batching),
                "computed": version.outcomes.requests,
                "failed": version.outcomes.errors,
                "computed_ms": _milliseconds(version.outcomes.seconds.summary()),
            }
            for number, version in sorted(statistics.versions.get(name, {}).items())
        },
        "shadows": [
            {"version": number, "shadow": shadow, **_compared(stats)}
            for number, others in sorted(statistics.shadows.get(name, {}).items())
            for shadow, stats in sorted(others.items())
        ],
    }


def _compared(stats: ShadowStats) -> dict[str, Any]:
    """Return how a shadow compares with production."""

    def mean(total: float) -> float | None:
        return round(total / stats.compared, 4) if stats.compared else None

    return {
        "compared": stats.compared,
        "errors": stats.errors,
        "dropped": stats.dropped,
        f"overlap_{COMPARED}": mean(stats.overlap),
        "rank_biased_overlap": mean(stats.rank_biased_overlap),
        "same_first": mean(stats.same_first),
        "shadow_ms": _milliseconds(stats.seconds.summary()),
    }


def _milliseconds(summary: LatencySummary) -> dict[str, float]:
    values = dataclasses.asdict(summary)
    count = values.pop("count")
    return {"count": count, **{name: round(value * 1000, 3) for name, value in values.items()}}


def _batching(stats: BatcherStats) -> dict[str, Any]:
    return {
        "submitted": stats.submitted,
        "rejected": stats.rejected,
        "rejected_by": stats.rejected_by,
        "expired": stats.expired,
        "cancelled": stats.cancelled,
        "batches": stats.batches,
        "failed_batches": stats.failed_batches,
        "abandoned_batches": stats.abandoned_batches,
        "queued": stats.queued,
        "running": stats.running,
        "batch_sizes": {str(size): n for size, n in stats.batch_sizes.items()},
        "queue_ms": _milliseconds(stats.queue_seconds.summary()),
        "model_ms": _milliseconds(stats.model_seconds.summary()),
        "total_ms": _milliseconds(stats.total_seconds.summary()),
        "cost_ms": {
            "per_batch": round(stats.cost_per_batch * 1000, 4),
            "per_row": round(stats.cost_per_row * 1000, 4),
        },
        "pool": {
            **dataclasses.asdict(stats.pool),
            "load_seconds": round(stats.pool.load_seconds, 3),
        },
    }


class CacheStatsView(APIView):
    """Statistics of the cache."""

    permission_classes = (CanOperate,)

    @extend_schema(
        parameters=[OpenApiParameter("model", str, description="Only this model's `models`.")],
        responses={200: OpenApiTypes.OBJECT},
    )
    def get(self, request: Request) -> Response:
        """Return hits, misses and sizes by level, by model and by segment, of all processes."""
        query = request.query_params
        unknown = sorted(set(query) - {"model", "format"})
        if unknown:
            raise InvalidInput(
                f"Unknown parameter {unknown[0][:50]!r}; use model.", field=unknown[0][:50]
            )
        model = query.get("model")
        if model is not None:
            access_of(request).check_model(model, "operate")
        statistics = cache_statistics(model)
        models = statistics["models"]
        statistics["models"] = {name: models[name] for name in _seen(request, models)}
        return Response(statistics)


class CacheClearView(APIView):
    """Clearing the cache."""

    permission_classes = (CanOperate,)

    @extend_schema(
        parameters=[
            OpenApiParameter("user_id", str, description="Forget this user's answers."),
            OpenApiParameter("model_name", str, description="Forget this model's answers."),
            OpenApiParameter("all", bool, description="true: forget everything."),
        ],
        responses={200: OpenApiTypes.OBJECT},
    )
    def delete(self, request: Request) -> Response:
        """Forget cached answers of a user, of a model, of both together, or all of them."""
        query = request.query_params
        unknown = sorted(set(query) - {"user_id", "model_name", "all"})
        if unknown:
            raise InvalidInput(
                f"Unknown parameter {unknown[0][:50]!r}; use user_id, model_name or all.",
                field=unknown[0][:50],
            )
        user_id, model_name = query.get("user_id"), query.get("model_name")
        if not (user_id or model_name or query.get("all") == "true"):
            raise InvalidInput(
                "Say what to forget: user_id=…, model_name=…, or all=true.", field="all"
            )
        _check_covered(request, model_name)
        # From here on no process serves what was cached; removing it only frees its room.
        epoch = invalidate(user_id=user_id or None, model_name=model_name or None)
        levels = get_levels()
        removed = (
            levels.remove_where(matcher(user_id=user_id, model_name=model_name))
            if user_id or model_name
            else levels.clear()
        )
        return Response({"removed": removed, "epoch": epoch})


def _check_covered(request: Request, model: str | None) -> None:
    """Return if the caller may forget answers of a model; None: of every one."""
    if model is None:
        access_of(request).check_every_model("operate")
    else:
        access_of(request).check_model(model.partition("@")[0], "operate")


class CacheInvalidateView(APIView):
    """Invalidating."""

    permission_classes = (CanOperate,)

    @extend_schema(request=InvalidateSerializer, responses={200: InvalidatedSerializer})
    def post(self, request: Request) -> Response:
        """Forget a user, a model, a version, a tag, a segment, a key, a question, or everything.

        It takes the same time whatever it covers. `scopes` names several at once.
        """
        settings = serving_settings()
        scopes, named = wanted_scopes(
            request.data, settings, lambda question: wiring.get_recommender().key(question)
        )
        for each in named:
            question = each.get("question", each)
            default = "default" if "question" in each else None
            _check_covered(request, question.get("model_name", default))
        try:
            epoch = invalidate_scopes(scopes)
        except ValueError as error:  # too long for the database
            raise InvalidInput(str(error), field="") from error
        return Response(
            {
                "invalidated": named,
                "epoch": epoch,
                "bound_seconds": dataclasses.asdict(bounds(settings.reconcile_seconds)),
            }
        )
