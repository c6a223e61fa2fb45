"""Rollups in the database: sums by minute, hour and day."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

__all__ = ["EngineMark", "Rollup", "RollupSeries"]


class RollupSeries(models.Model):
    """What sums are of: a row for each combination that was ever counted."""

    name = models.CharField(_("name"), max_length=32)
    model = models.CharField(_("model"), max_length=100, blank=True)
    segment = models.CharField(_("segment"), max_length=100, blank=True)
    level = models.CharField(_("level"), max_length=64, blank=True)
    bucket = models.IntegerField(_("bucket"), default=-1)

    class Meta:
        """Names, and one row for each."""

        verbose_name = _("rolled-up series")
        verbose_name_plural = _("rolled-up series")
        constraints = (
            models.UniqueConstraint(
                fields=("name", "model", "segment", "level", "bucket"), name="unique_rollup_series"
            ),
        )

    def __str__(self) -> str:
        labels = (self.name, self.model, self.segment, self.level)
        return " ".join(label for label in labels if label)


class Rollup(models.Model):
    """The sum of one series over one minute, hour or day, of all processes.

    There are many: so the time is a number, and what it is of one, too. In SQLite the table has no
    row ids, and so no second tree beside that of its key: half the size.
    """

    pk = models.CompositePrimaryKey("step", "at", "series")
    step = models.IntegerField(_("step (s)"), help_text=_("60, 3600 or 86400."))
    at = models.BigIntegerField(_("at"), help_text=_("Its start, in Unix seconds."))
    series = models.ForeignKey(
        RollupSeries,
        on_delete=models.CASCADE,
        db_index=False,
        related_name="+",
        verbose_name=_("series"),
    )
    value = models.FloatField(_("value"))

    class Meta:
        """Names."""

        verbose_name = _("rollup")
        verbose_name_plural = _("rollups")

    def __str__(self) -> str:
        return f"{self.series_id} {self.at}+{self.step}: {self.value:g}"


class EngineMark(models.Model):
    """How far an engine's counts are rolled up, which several processes may use and tell of."""

    engine = models.CharField(_("engine"), max_length=255, primary_key=True)
    seen = models.DateTimeField(_("last seen"))
    counts = models.JSONField(_("counts"))

    class Meta:
        """Names."""

        verbose_name = _("mark of an engine")
        verbose_name_plural = _("marks of engines")

    def __str__(self) -> str:
        return self.engine
