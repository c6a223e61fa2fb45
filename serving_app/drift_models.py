"""Drift in the database: users' profiles, and what was decided when they changed."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from plugins import UserId
from serving_app.leased_row import LeasedRow

__all__ = ["DriftDecision", "DriftProgress", "UserProfile"]

SOURCES = (("events", _("events")), ("features", _("feature vectors")))
ACTIONS = (("keep", _("kept")), ("refresh", _("refreshed")), ("drop", _("dropped")))


class OfUser(models.Model):
    """Belongs to a user."""

    user = models.CharField(_("user"), max_length=256)
    user_is_number = models.BooleanField(
        _("user is a number"), default=False, help_text=_("1 and '1' are two users.")
    )
    source = models.CharField(_("source"), max_length=16, choices=SOURCES)

    class Meta:
        """It has no table of its own."""

        abstract = True

    @property
    def user_id(self) -> UserId:
        """The user as it asks."""
        return int(self.user) if self.user_is_number else self.user


class UserProfile(OfUser):
    """What a user likes, now and when its answers were refreshed last."""

    before = models.JSONField(_("before"), default=dict, help_text=_("At the last refresh."))
    now = models.JSONField(_("now"), default=dict)
    event = models.BigIntegerField(
        default=0, editable=False, help_text=_("The last event before the last refresh.")
    )
    latest = models.BigIntegerField(
        default=0, editable=False, help_text=_("The last event that was looked at.")
    )
    events = models.PositiveIntegerField(
        _("events"), default=0, help_text=_("Since the last refresh.")
    )
    suspected = models.PositiveIntegerField(_("suspected"), default=0)
    refreshed = models.DateTimeField(_("refreshed"))
    judged = models.DateTimeField(_("judged"))
    distance = models.FloatField(_("distance"), default=0.0)
    reason = models.CharField(_("reason"), max_length=300, blank=True)

    class Meta:
        """Names, order, and one row for each user and source."""

        verbose_name = _("profile")
        verbose_name_plural = _("profiles")
        ordering = ("-judged", "-pk")
        constraints = (
            models.UniqueConstraint(
                fields=("user", "user_is_number", "source"), name="unique_profile"
            ),
        )
        indexes = (models.Index(fields=("judged", "id"), name="profile_by_time"),)

    def __str__(self) -> str:
        return f"{self.user} ({self.source}): {self.distance:.2f}"


class DriftDecision(OfUser):
    """One change of preferences that was significant, and what was done."""

    at = models.DateTimeField(_("at"))
    segment = models.CharField(_("segment"), max_length=50)
    rule = models.CharField(_("rule"), max_length=100)
    action = models.CharField(_("action"), max_length=16, choices=ACTIONS)
    distance = models.FloatField(_("distance"))
    events = models.PositiveIntegerField(_("events"))
    reason = models.CharField(_("reason"), max_length=300)

    class Meta:
        """Names, order, and what is searched."""

        verbose_name = _("drift decision")
        verbose_name_plural = _("drift decisions")
        ordering = ("-at", "-pk")
        indexes = (
            models.Index(fields=("at", "id"), name="drift_by_time"),
            models.Index(fields=("user", "at"), name="drift_by_user"),
        )

    def __str__(self) -> str:
        return f"{self.user} {self.action} {self.at:%Y-%m-%d %H:%M:%S}"


class DriftProgress(LeasedRow):
    """How far events have been looked at, and which process does it. One row."""

    event = models.BigIntegerField(
        null=True, blank=True, help_text=_("The last event that was looked at.")
    )

    class Meta:
        """Names."""

        verbose_name = _("progress of drift")
        verbose_name_plural = _("progress of drift")

    def __str__(self) -> str:
        return f"event {self.event}"
