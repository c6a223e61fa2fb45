"""Activity in the database: counts by the hour, events, and files that were imported."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from plugins import UserId

__all__ = ["ActivityCount", "Event", "EventImport"]


class ActivityCount(models.Model):
    """How often a user asked one thing in one hour, over all processes."""

    digest = models.CharField(_("digest"), max_length=32, primary_key=True)
    hour = models.DateTimeField(_("hour"), help_text=_("Its start."))
    kind = models.CharField(_("kind"), max_length=16, help_text=_("request, or the kind of event."))
    model = models.CharField(_("model"), max_length=256)
    alias = models.CharField(
        _("alias"), max_length=256, blank=True, help_text=_("The one that was asked for, if any.")
    )
    user = models.CharField(_("user"), max_length=256)
    user_is_number = models.BooleanField(
        _("user is a number"), default=False, help_text=_("1 and '1' are two users.")
    )
    context = models.TextField(_("context"), default="{}", help_text=_("As JSON."))
    own_features = models.BooleanField(
        _("own features"),
        default=False,
        help_text=_("The caller sent features: nobody else can ask the same."),
    )
    count = models.PositiveBigIntegerField(_("count"))
    last = models.DateTimeField(_("last"))

    class Meta:
        """Names, order and what is searched."""

        verbose_name = _("activity")
        verbose_name_plural = _("activity")
        ordering = ("-hour", "-digest")
        indexes = (
            models.Index(fields=("hour", "digest"), name="activity_by_hour"),
            models.Index(fields=("model", "hour"), name="activity_by_model"),
            models.Index(fields=("user", "hour"), name="activity_by_user"),
        )

    def __str__(self) -> str:
        return f"{self.user} {self.kind} {self.model} {self.hour:%Y-%m-%d %H}h: {self.count}"

    @property
    def user_id(self) -> UserId:
        """The user as it asks."""
        return int(self.user) if self.user_is_number else self.user


class Event(models.Model):
    """Something that a user did with an item, as a client or a file told it."""

    event_id = models.CharField(
        _("event id"),
        max_length=128,
        null=True,
        blank=True,
        unique=True,
        help_text=_("By which a second telling of the same is known."),
    )
    at = models.DateTimeField(_("at"))
    kind = models.CharField(_("kind"), max_length=16)
    model = models.CharField(_("model"), max_length=100)
    user = models.CharField(_("user"), max_length=256)
    user_is_number = models.BooleanField(_("user is a number"), default=False)
    item = models.CharField(_("item"), max_length=256)
    value = models.FloatField(
        _("value"), null=True, blank=True, help_text=_("Pieces bought, or the rating.")
    )

    class Meta:
        """Names, order and what is searched."""

        verbose_name = _("event")
        verbose_name_plural = _("events")
        ordering = ("-at", "-pk")
        indexes = (
            models.Index(fields=("at", "id"), name="event_by_time"),
            models.Index(fields=("user", "at"), name="event_by_user"),
        )

    def __str__(self) -> str:
        return f"{self.user} {self.kind} {self.item} {self.at:%Y-%m-%d %H:%M:%S}"

    @property
    def user_id(self) -> UserId:
        """The user as it asks."""
        return int(self.user) if self.user_is_number else self.user


class EventImport(models.Model):
    """How far a file was imported: so that an import that was stopped goes on where it was."""

    sha256 = models.CharField(_("SHA-256"), max_length=64, help_text=_("Of the file."))
    name = models.CharField(_("file"), max_length=255)
    model = models.CharField(_("model"), max_length=100)
    kind = models.CharField(_("kind"), max_length=16)
    shift = models.FloatField(_("shift (s)"), help_text=_("Added to every time in the file."))
    rows = models.PositiveBigIntegerField(_("rows"))
    done = models.PositiveBigIntegerField(_("done"), default=0)
    skipped = models.PositiveBigIntegerField(
        _("skipped"), default=0, help_text=_("Older than events are kept.")
    )
    started = models.DateTimeField(_("started"), auto_now_add=True)
    finished = models.DateTimeField(_("finished"), null=True, blank=True)

    class Meta:
        """Names, order, and one row for each file, model and kind."""

        verbose_name = _("import of events")
        verbose_name_plural = _("imports of events")
        ordering = ("-started",)
        constraints = (
            models.UniqueConstraint(
                fields=("sha256", "model", "kind"), name="unique_import_of_events"
            ),
        )

    def __str__(self) -> str:
        return f"{self.name}: {self.done} of {self.rows}"
