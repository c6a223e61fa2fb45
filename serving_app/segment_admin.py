"""Segments in the admin: their rules and terms, and who belongs to them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from cache_app import theme
from serving_app.segment_models import Segment, SegmentCondition, SegmentMember


class ConditionInline(theme.TabularInline):  # type: ignore[misc]  # theme has no types
    """The segment's rule."""

    model = SegmentCondition
    extra = 0
    fields = ("field", "comparison", "value", "window_days")


@admin.register(Segment)
class SegmentAdmin(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Segments."""

    list_display = ("name", "order", "enabled", "rule_in_words", "members_link", "share", "ttl")
    list_editable = ("order",)
    list_filter = ("enabled",)
    search_fields = ("name", "description")
    inlines = (ConditionInline,)
    fieldsets = (
        (None, {"fields": ("name", "description", "order", "enabled")}),
        (_("Cache"), {"fields": ("share", "policy", "policy_options", "ttl")}),
        (_("Model"), {"fields": ("alias",)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Segment]:
        """Return the segments with what the list shows of them."""
        rows: QuerySet[Segment] = super().get_queryset(request)
        return rows.annotate(n=Count("members")).prefetch_related("conditions")

    @admin.display(description=_("rule"))
    def rule_in_words(self, segment: Segment) -> str:
        """Return whom it takes."""
        return segment.described

    @admin.display(description=_("members"), ordering="n")
    def members_link(self, segment: Any) -> str:
        """Return how many users it has, with a link to them."""
        url = reverse("admin:serving_app_segmentmember_changelist")
        return format_html('<a href="{}?segment__id__exact={}">{}</a>', url, segment.pk, segment.n)


@admin.register(SegmentMember)
class SegmentMemberAdmin(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Who belongs where. The rules decide; nobody is moved by hand."""

    list_display = ("user", "segment_name", "since", "first_seen", "last_seen", "due")
    list_filter = ("segment",)
    list_select_related = ("segment",)
    search_fields = ("=user",)
    search_help_text = "A user, as it is written."

    @admin.display(description=_("segment"), ordering="segment")
    def segment_name(self, member: SegmentMember) -> str:
        """Return the segment, ``all`` for none."""
        return str(member).rpartition(": ")[2]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: activity makes users known."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: the rules decide."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: a user would come back with the next activity."""
        return False
