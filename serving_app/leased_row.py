"""A row of which one process at a time is the owner: who does what must be done once for all."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Self

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

__all__ = ["LeaseLost", "LeasedRow"]

LEASE = timedelta(seconds=60)
"""How long an owner that says nothing more keeps others away."""


class LeaseLost(Exception):
    """Another process is the owner now."""


class LeasedRow(models.Model):
    """The only row of its table, with an owner until an instant."""

    owner = models.CharField(_("process"), max_length=200, blank=True)
    until = models.DateTimeField(
        _("until"), null=True, blank=True, help_text=_("When another process may take over.")
    )

    class Meta:
        """It has no table of its own."""

        abstract = True

    @classmethod
    def row(cls) -> Self:
        """Return the row; make it if it is not there."""
        return cls._default_manager.get_or_create(pk=1)[0]

    @classmethod
    def take(cls, owner: str, now: datetime) -> bool:
        """Return whether a process is the owner now: it was, or the row was free."""
        cls.row()
        free = Q(owner=owner) | Q(until__isnull=True) | Q(until__lt=now)
        rows = cls._default_manager.filter(free, pk=1)
        return bool(rows.update(owner=owner, until=now + LEASE))

    @classmethod
    def hold(cls, owner: str, now: datetime, **changes: Any) -> Self:
        """Remain the owner, and change the row; at the start of a transaction, which it orders.

        Raises:
            LeaseLost: Another process is the owner.
        """
        mine = cls._default_manager.filter(pk=1, owner=owner)
        if not mine.update(until=now + LEASE, **changes):
            raise LeaseLost
        return cls._default_manager.get(pk=1)

    @classmethod
    def release(cls, owner: str) -> None:
        """Let another process become the owner at once."""
        cls._default_manager.filter(pk=1, owner=owner).update(until=None, owner="")
