"""Keeps a sample of predict requests with their answers; off unless ``PAYLOADS`` says otherwise.

Requests only put theirs into a bounded queue; `flush` writes, on the thread of the reconciler.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta

from django.db import DatabaseError, transaction
from django.utils import timezone

from plugins import Recommendation, RecommendationRequest
from serving_app.core.request_record import current_id
from serving_app.log_conf import log_settings
from serving_app.payload_models import LoggedRequest

__all__ = ["PayloadLog", "consider", "flush"]

logger = logging.getLogger(__name__)

_WAITING = 2000
"""Requests that may wait to be written; more are dropped and counted."""
_PRUNE_SECONDS = 60.0


class PayloadLog:
    """A sample of the requests of this process. Any thread keeps; one at a time flushes.

    Args:
        draw: Returns a number from 0 to 1, below the sampled part for those to keep.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._draw = draw
        self._clock = clock
        self._waiting: deque[LoggedRequest] = deque()
        self._flushing = threading.Lock()
        self._pruned = float("-inf")
        self.dropped = 0
        """Requests that were drawn, and not written: they came too fast, or could not be."""

    def consider(
        self, request: RecommendationRequest, answer: Recommendation, seconds: float
    ) -> None:
        """Keep a request and its answer, if it is drawn."""
        part = log_settings().payloads
        if part <= 0 or self._draw() >= part:
            return
        if len(self._waiting) >= _WAITING:
            self.dropped += 1
            return
        features = request.features
        self._waiting.append(
            LoggedRequest(
                at=timezone.now(),
                request_id=current_id(),
                model=answer.model_name,
                version=answer.model_version,
                source=answer.source,
                latency_ms=round(seconds * 1000, 3),
                body={
                    "user_id": request.user_id,
                    "model_name": request.model_name,
                    "features": features if features is None else _plain(features),
                    "context": dict(request.context),
                    "k": request.k,
                    "exclude": sorted(request.exclude),
                },
                items=list(answer.items),
                scores=list(answer.scores),
            )
        )

    def flush(self) -> None:
        """Write what waits, and delete what is too old or too much."""
        with self._flushing:
            batch: list[LoggedRequest] = []
            while self._waiting and len(batch) < _WAITING:
                batch.append(self._waiting.popleft())
            if batch:
                try:
                    with transaction.atomic():
                        LoggedRequest.objects.bulk_create(batch, batch_size=500)
                except (DatabaseError, TypeError, ValueError) as error:
                    self.dropped += len(batch)
                    logger.warning("%d requests could not be logged: %s", len(batch), error)
            if self._clock() - self._pruned >= _PRUNE_SECONDS:
                self._pruned = self._clock()
                _prune()


def _plain(features: object) -> object:
    return dict(features) if hasattr(features, "items") else list(features)  # type: ignore[call-overload]


def _prune() -> None:
    """Delete what is older than it may be, and the oldest of what is too much."""
    settings = log_settings()
    rows = LoggedRequest.objects.all()
    rows.filter(at__lt=timezone.now() - timedelta(days=settings.payload_days)).delete()
    newest_out = rows.order_by("-pk").values_list("pk", flat=True)[settings.payload_rows :][:1]
    for pk in newest_out:
        rows.filter(pk__lte=pk).delete()


_log = PayloadLog()
consider = _log.consider
flush = _log.flush
