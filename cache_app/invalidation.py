"""Invalidating, for every process: what API, admin, commands and Python code call."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from cache_app import wiring
from cache_app.conf import cache_settings
from cache_app.core.generations import EVERYTHING, scope
from cache_app.models import Epoch, Invalidation
from plugins.contracts import UserId

__all__ = ["Bounds", "bounds", "invalidate", "invalidate_scopes"]

logger = logging.getLogger(__name__)

_LONGEST = 400
"""Characters of a scope, as the database has room for."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long after an invalidation has returned an older answer may still be served, seconds."""

    this_host: float
    """By the processes of this host."""
    other_hosts: float
    """By those of other hosts."""


def invalidate(
    *,
    user_id: UserId | None = None,
    model_name: str | None = None,
    version: int | None = None,
    tag: str | None = None,
    segment: str | None = None,
    key: str | None = None,
) -> int:
    """Forget every cached answer of all that is given together; nothing given: of everything.

    When it returns, no process of this host that asks serves an older answer; see `bounds` for
    the others. It costs the same whatever it covers.

    Args:
        user_id: A user, alone or by a model.
        model_name: A model.
        version: A version of the model.
        tag: A tag that requests declared in ``context["tags"]``; goes alone.
        segment: A segment of users; goes alone.
        key: The key of one entry, with its generation or without; goes alone.

    Returns:
        The epoch of the invalidation.

    Raises:
        ValueError: What is given does not go together, or is no tag, segment or key.
        DatabaseError: It could not be written; nothing was invalidated.
    """
    return invalidate_scopes(
        [
            scope(
                user_id=user_id,
                model_name=model_name,
                version=version,
                tag=tag,
                segment=segment,
                key=key,
            )
        ]
    )


def invalidate_scopes(scopes: Sequence[str]) -> int:
    """Forget every cached answer of each scope: all of them, or none if it raises.

    Args:
        scopes: One or more of what `cache_app.core.generations.scope` returned.

    Returns:
        The epoch of the last.

    Raises:
        ValueError: There is none, or one is too long.
        DatabaseError: It could not be written; nothing was invalidated.
    """
    if not scopes:
        raise ValueError("Name a scope.")
    for each in scopes:
        if len(each) > _LONGEST:
            raise ValueError(f"{each[:50]}… is longer than any that may be asked for.")
    scopes = [EVERYTHING] if EVERYTHING in scopes else list(dict.fromkeys(scopes))
    with transaction.atomic():
        row = Epoch.objects.select_for_update().get()
        first = row.latest + 1
        row.latest += len(scopes)
        row.save(update_fields=["latest"])
        _forget_the_past(scopes)
        Invalidation.objects.bulk_create(
            Invalidation(epoch=epoch, scope=each) for epoch, each in enumerate(scopes, first)
        )
        transaction.on_commit(lambda: wiring.tell(row.latest))
    logger.info("Invalidated %s (epoch %s)", ", ".join(scopes), row.latest)
    return row.latest


def bounds(look_seconds: float) -> Bounds:
    """Return within which time processes follow an invalidation, as they are set up to.

    Args:
        look_seconds: How often each looks at the database, whatever it hears.
    """
    this_host, other_hosts = wiring.signal_bounds()
    return Bounds(
        look_seconds if this_host is None else this_host,
        look_seconds if other_hosts is None else other_hosts,
    )


def _forget_the_past(scopes: Sequence[str]) -> None:
    """Delete invalidations that matter no more: that others cover, or nothing cached is older than.

    So there are never more rows than scopes that were invalidated within two lifetimes of an
    entry, however often each was.
    """
    if EVERYTHING in scopes:
        Invalidation.objects.all().delete()
        return
    settings = cache_settings()
    longest = settings.longest_ttl + settings.freshness.longest_stale
    old = timezone.now() - timedelta(seconds=2 * longest)
    past = Invalidation.objects.exclude(scope=EVERYTHING)
    past.filter(Q(scope__in=scopes) | Q(at__lt=old)).delete()
