"""Drift in the admin: what was decided, and users' profiles, to look at."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.translation import gettext_lazy as _

from cache_app import theme
from serving_app.drift_models import DriftDecision, UserProfile

SHOWN = 20
"""Terms of a profile that are shown."""


class _ReadOnly(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Rows that the watch writes and deletes."""

    search_fields = ("=user",)
    search_help_text = "A user, as it is written."

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: the watch makes them."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: they say what was."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: they go by themselves."""
        return False


@admin.register(DriftDecision)
class DriftDecisionAdmin(_ReadOnly):
    """Changes of preferences, and why they were significant."""

    list_display = (
        *("at", "user", "action", "distance_shown", "reason", "segment", "rule"),
        *("events", "source"),
    )
    list_filter = ("action", "segment", "source", "at")

    @admin.display(description=_("distance"), ordering="distance")
    def distance_shown(self, row: DriftDecision) -> str:
        """Return how much had changed."""
        return f"{row.distance:.2f}"


@admin.register(UserProfile)
class UserProfileAdmin(_ReadOnly):
    """What users like, and what the rule said of it last."""

    list_display = ("user", "source", "distance", "reason", "events", "suspected", "judged")
    list_filter = ("source",)
    fields = (
        *("user", "source", "distance", "reason", "events", "suspected"),
        *("refreshed", "judged", "terms_now", "terms_before"),
    )

    @admin.display(description=_("now"))
    def terms_now(self, row: UserProfile) -> str:
        """Return the heaviest terms of today."""
        return _terms(row.now)

    @admin.display(description=_("at the last refresh"))
    def terms_before(self, row: UserProfile) -> str:
        """Return the heaviest terms at the last refresh."""
        return _terms(row.before)


def _terms(profile: dict[str, float]) -> str:
    heaviest = sorted(profile.items(), key=lambda each: -abs(each[1]))[:SHOWN]
    return format_html_join(", ", "{} {}", ((term, f"{w:.2f}") for term, w in heaviest)) or "—"
