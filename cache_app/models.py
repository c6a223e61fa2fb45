"""Invalidations, in the order in which they happened."""

from __future__ import annotations

from django.db import DatabaseError, models
from django.utils.translation import gettext_lazy as _

from plugins.errors import LevelUnavailable


class Epoch(models.Model):
    """The latest epoch: one row, whose lock puts invalidations in order.

    It begins with the time at which the database was made, so that no other database's
    generations are taken for this one's by a level that outlives both.
    """

    latest = models.BigIntegerField(_("latest epoch"))

    class Meta:
        """Names."""

        verbose_name = _("epoch")
        verbose_name_plural = _("epochs")

    def __str__(self) -> str:
        return str(self.latest)


class Invalidation(models.Model):
    """One scope that was invalidated. Kept as long as something older may still be cached."""

    epoch = models.BigIntegerField(_("epoch"), primary_key=True)
    scope = models.CharField(_("scope"), max_length=400)
    at = models.DateTimeField(_("at"), auto_now_add=True)

    class Meta:
        """Names and order."""

        verbose_name = _("invalidation")
        verbose_name_plural = _("invalidations")
        ordering = ("epoch",)

    def __str__(self) -> str:
        return f"{self.scope} at {self.at:%Y-%m-%d %H:%M:%S}"

    @classmethod
    def after(cls, epoch: int) -> list[tuple[int, str]]:
        """Return the invalidations after an epoch, as pairs of epoch and scope, oldest first.

        Raises:
            LevelUnavailable: The database does not answer.
        """
        try:
            return list(cls.objects.filter(epoch__gt=epoch).values_list("epoch", "scope"))
        except DatabaseError as error:
            raise LevelUnavailable(f"Invalidations cannot be read: {error}") from error
