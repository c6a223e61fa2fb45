"""Invalidating, for every process: what API, commands and Python code call."""

from __future__ import annotations

import logging
from datetime import timedelta

from django.db import transaction
from django.utils import timezone

from cache_app import wiring
from cache_app.conf import cache_settings
from cache_app.core.generations import EVERYTHING, scope
from cache_app.models import Epoch, Invalidation
from plugins.contracts import UserId

__all__ = ["invalidate"]

logger = logging.getLogger(__name__)


def invalidate(
    *,
    user_id: UserId | None = None,
    model_name: str | None = None,
    version: int | None = None,
) -> int:
    """Forget every cached answer of all that is given together; nothing given: of everything.

    When it returns, no process of this host that asks serves an older answer, and none of
    another host after its next look at the database (``RECONCILE_SECONDS``).

    Returns:
        The epoch of the invalidation.

    Raises:
        ValueError: A version is given without its model, or with a user.
        DatabaseError: It could not be written; nothing was invalidated.
    """
    what = scope(user_id=user_id, model_name=model_name, version=version)
    with transaction.atomic():
        row = Epoch.objects.select_for_update().get()
        row.latest += 1
        row.save(update_fields=["latest"])
        Invalidation.objects.create(epoch=row.latest, scope=what)
        _forget_the_past(what, row.latest)
        transaction.on_commit(lambda: wiring.tell(row.latest))
    logger.info("Invalidated %s (epoch %s)", what, row.latest)
    return row.latest


def _forget_the_past(what: str, latest: int) -> None:
    """Delete invalidations that nothing cached is older than."""
    if what == EVERYTHING:
        Invalidation.objects.filter(epoch__lt=latest).delete()
        return
    settings = cache_settings()
    longest = settings.ttl + settings.freshness.longest_stale
    old = timezone.now() - timedelta(seconds=2 * longest)
    Invalidation.objects.filter(at__lt=old).exclude(scope=EVERYTHING).delete()
