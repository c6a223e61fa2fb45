"""Metrics in the database."""

from __future__ import annotations

from typing import TypeAlias

from django.db import models
from django.utils.translation import gettext_lazy as _

__all__ = ["ProcessMetrics"]


class ProcessMetrics(models.Model):
    """What one process counted, for Prometheus; or, without a name, all that are gone."""

    Rows: TypeAlias = "models.QuerySet[ProcessMetrics]"

    process = models.CharField(_("process"), max_length=64, primary_key=True)
    seen = models.DateTimeField(_("last seen"))
    samples = models.JSONField(_("samples"))

    class Meta:
        """Names."""

        verbose_name = _("process metrics")
        verbose_name_plural = _("process metrics")

    def __str__(self) -> str:
        return self.process or "gone"
