"""Which warmed answers were asked for: hits earned, counted where activity is written."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from django.db import DatabaseError, router, transaction
from django.db.models import F

from plugins import RecommendationRequest
from serving_app.core.activity import REQUEST, Asked, Counted
from serving_app.core.warmup_counts import WARM_UP
from serving_app.core.warmup_plan import question_digest
from serving_app.warmup_models import WarmupQuestion, WarmupRun, WarmupSchedule

__all__ = ["count_hits"]

logger = logging.getLogger(__name__)

_STATEMENT = 500


def count_hits(counts: Mapping[Asked, Counted]) -> int:
    """Credit warmed questions that were answered out of the cache; return how many.

    The first time counts, and only while the answer was fresh. What the database does not take is
    not counted: no activity waits for it.
    """
    hits = {
        asked: counted.hit for asked, counted in counts.items() if _may_be_warmed(asked, counted)
    }
    if not hits:
        return 0
    earliest = datetime.fromtimestamp(min(hits.values()), UTC)
    waiting = WarmupQuestion.objects.filter(
        state=WarmupQuestion.State.WARMED, asked=None, fresh_until__gte=earliest
    )
    try:
        if not waiting.exists():
            return 0
        found = _matching(hits, waiting.select_related("run__schedule").defer("run__strategies"))
        return _credit(found)
    except DatabaseError as error:
        logger.warning("Hits that warm-ups earned could not be counted: %s", error)
        return 0


def _may_be_warmed(asked: Asked, counted: Counted) -> bool:
    return bool(counted.hit) and asked.kind == REQUEST and not asked.own_features


def _matching(
    hits: Mapping[Asked, float], waiting: Iterable[WarmupQuestion]
) -> list[tuple[WarmupQuestion, datetime]]:
    """Return the warmed questions that were asked in time, with when: the latest of each."""
    last: dict[str, float] = {}
    for asked, hit in hits.items():
        digest = _digest(asked)
        last[digest] = max(hit, last.get(digest, 0.0))
    found: dict[str, tuple[WarmupQuestion, datetime]] = {}
    digests = sorted(last)
    for start in range(0, len(digests), _STATEMENT):
        part = digests[start : start + _STATEMENT]
        for row in waiting.filter(digest__in=part).order_by("warmed_at", "pk"):  # type: ignore[attr-defined]  # a queryset
            at = datetime.fromtimestamp(last[row.digest], UTC)
            if row.warmed_at <= at <= row.fresh_until:
                found[row.digest] = row, at
    return list(found.values())


def _digest(asked: Asked) -> str:
    return question_digest(
        RecommendationRequest(
            user_id=asked.user,
            model_name=asked.model,
            alias=asked.alias,
            context=json.loads(asked.context),
        )
    )


def _credit(found: Iterable[tuple[WarmupQuestion, datetime]]) -> int:
    """Count questions for their runs and schedules, each once over all processes."""
    hits: Counter[int] = Counter()
    seconds: dict[int, float] = {}
    runs: dict[int, WarmupRun] = {}
    with transaction.atomic(using=router.db_for_write(WarmupQuestion)):
        for row, at in found:
            if WarmupQuestion.objects.filter(pk=row.pk, asked=None).update(asked=at):
                runs[row.run_id] = row.run
                hits[row.run_id] += 1
                seconds[row.run_id] = seconds.get(row.run_id, 0.0) + row.model_seconds
        for pk in sorted(runs):  # in one order, so that nobody waits in a circle
            more = {
                "earned": F("earned") + hits[pk],
                "seconds_saved": F("seconds_saved") + seconds[pk],
            }
            WarmupRun.objects.filter(pk=pk).update(**more)
            schedule = runs[pk].schedule
            if schedule is not None:
                WarmupSchedule.objects.filter(pk=schedule.pk).update(**more)
    for pk, run in runs.items():
        WARM_UP.earned("" if run.schedule is None else run.schedule.name, hits[pk], seconds[pk])
    return hits.total()
