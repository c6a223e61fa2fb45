"""What warm-up strategies see of a model: its activity in the database, and what is cached."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

from django.db.models import Q

from plugins import Asking, RecommendationRequest
from serving_app.activity_models import ActivityCount

__all__ = ["ModelActivity"]

_PAGE = 200
"""Rows that are read by one query."""
_REST = 2.0
"""Pauses between pages, in parts of the processor time that the page took."""
_CONTEXTS = 1024
"""Contexts that are kept parsed, since many askings share them."""


@dataclass(frozen=True, slots=True)
class ModelActivity:
    """The activity of one model, or of one alias of it: an `ActivityView`."""

    model_name: str
    """The model that is warmed."""
    alias: str
    """The alias or version that is warmed; empty: whatever answers who asks for none."""
    now: float
    """The time, in Unix seconds."""
    zone: tzinfo
    """The time zone in which hours of the day are meant."""
    freshness: Callable[[RecommendationRequest], float | None]
    """Returns what `fresh_for` shall return."""
    rest: Callable[[float], object] = time.sleep
    """Called between pages with seconds to pause. It may raise, and so end the reading."""

    def askings(self, since: float, until: float) -> Iterator[Asking]:
        """Yield what was asked in hours that began in ``[since, until)``, by hour and last asking.

        Rows are read page by page, each from where the last one ended: no cursor and no
        transaction stays open meanwhile, on any database, and memory holds one page. A question of
        the current hour that is asked again while it is read may come twice.

        Between pages it pauses, for longer than it worked: a million rows are ten seconds of work,
        and the thread shares its interpreter with requests that someone waits for.

        Raises:
            DatabaseError: The database does not answer.
        """
        contexts = functools.lru_cache(maxsize=_CONTEXTS)(_context)
        first = Q(hour__gte=datetime.fromtimestamp(since, UTC))
        rows = (
            ActivityCount.objects.filter(
                model=self.model_name,
                alias=self.alias,
                own_features=False,
                hour__lt=datetime.fromtimestamp(until, UTC),
            )
            .order_by("hour", "last", "digest")
            .values_list(*_COLUMNS)
        )
        while True:
            began = time.thread_time()
            page = list(rows.filter(first)[:_PAGE])
            for hour, last, _, user, is_number, context, count in page:
                yield Asking(
                    user_id=int(user) if is_number else user,
                    model_name=self.model_name,
                    alias=self.alias,
                    context=contexts(context),
                    hour=hour.timestamp(),
                    count=count,
                    last=min(last.timestamp(), self.now),
                )
            if len(page) < _PAGE:
                return
            self.rest(_REST * (time.thread_time() - began))
            hour, last, digest = page[-1][:3]
            first = Q(hour__gte=hour) & (
                Q(hour__gt=hour) | Q(last__gt=last) | Q(last=last, digest__gt=digest)
            )

    def fresh_for(self, request: RecommendationRequest) -> float | None:
        """Return the seconds that a cached answer is still fresh; 0: it is stale; None: none is."""
        return self.freshness(request)


_COLUMNS = ("hour", "last", "digest", "user", "user_is_number", "context", "count")


def _context(text: str) -> Mapping[str, Any]:
    context: dict[str, Any] = json.loads(text)
    return context
