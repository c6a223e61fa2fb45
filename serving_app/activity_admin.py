"""Activity in the admin: to look at."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from cache_app import theme
from serving_app.activity_models import ActivityCount, Event, EventImport

__all__ = ["ActivityCountAdmin", "EventAdmin", "EventImportAdmin"]


class _ReadOnly(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Rows that serving processes and commands write."""

    show_full_result_count = False  # there may be a million

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: they come by themselves."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: they say what happened."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: they go by themselves."""
        return False


@admin.register(ActivityCount)
class ActivityCountAdmin(_ReadOnly):
    """How often users asked what, by the hour."""

    when_empty = _("Answered requests are counted here within seconds. Make a call.")
    list_display = ("hour", "user", "kind", "model", "alias", "count", "last", "own_features")
    list_filter = ("kind", "own_features", "hour")
    search_fields = ("=user", "=model")
    search_help_text = "A user or a model, as it is written."


@admin.register(Event)
class EventAdmin(_ReadOnly):
    """What users did."""

    when_empty = _("Send them to POST /api/v1/events, or import a file: manage.py import_events.")
    list_display = ("at", "user", "kind", "item", "value", "model", "event_id")
    list_filter = ("kind", "at")
    search_fields = ("=user", "=item", "=event_id")
    search_help_text = "A user, an item or an event id, as it is written."


@admin.register(EventImport)
class EventImportAdmin(_ReadOnly):
    """Files that were imported, and how far."""

    when_empty = _("manage.py import_events imports a file of events.")
    list_display = ("started", "name", "model", "kind", "done", "rows", "skipped", "finished")
