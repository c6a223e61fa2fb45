"""Logged requests in the database."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

__all__ = ["LoggedRequest"]


class LoggedRequest(models.Model):
    """A predict request with its answer, to be replayed. Kept only where sampling is on."""

    at = models.DateTimeField(_("at"), db_index=True)
    request_id = models.CharField(_("request id"), max_length=128, blank=True)
    model = models.CharField(_("model"), max_length=100, db_index=True)
    version = models.PositiveIntegerField(_("version"), null=True, blank=True)
    source = models.CharField(_("source"), max_length=32)
    latency_ms = models.FloatField(_("latency (ms)"))
    body = models.JSONField(_("request"))
    items = models.JSONField(_("items"))
    scores = models.JSONField(_("scores"))

    class Meta:
        """Names and order."""

        verbose_name = _("logged request")
        verbose_name_plural = _("logged requests")
        ordering = ("-at", "-pk")

    def __str__(self) -> str:
        return f"{self.model}@{self.version} {self.at:%Y-%m-%d %H:%M:%S}"
