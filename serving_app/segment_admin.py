"""Segments in the admin: their rules and terms, and who belongs to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from cache_app import theme
from serving_app import process_statistics
from serving_app.core.request_counts import MISS, NEGATIVE
from serving_app.core.segment_rules import Condition
from serving_app.core.statistics import Statistics
from serving_app.segment_models import Segment, SegmentCondition, SegmentMember
from serving_app.segment_simulation import simulate


class ConditionInline(theme.TabularInline):  # type: ignore[misc]  # theme has no types
    """The segment's rule."""

    model = SegmentCondition
    extra = 0
    fields = ("field", "comparison", "value", "window_days")


@admin.register(Segment)
class SegmentAdmin(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Segments."""

    list_display = (
        *("name", "order", "enabled", "rule_in_words", "members_link", "hit_rate"),
        *("share", "used", "ttl"),
    )
    list_filter = ("enabled",)
    search_fields = ("name", "description")
    inlines = (ConditionInline,)
    fieldsets = (
        (None, {"fields": ("name", "description", "order", "enabled")}),
        (_("Cache"), {"fields": ("share", "policy", "policy_options", "ttl")}),
        (_("Change of preferences"), {"fields": ("drift_rule", "drift_options")}),
        (_("Model"), {"fields": ("alias",)}),
    )
    actions_submit_line = ("try_rule",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Segment]:
        """Return the segments with what the list shows of them."""
        rows: QuerySet[Segment] = super().get_queryset(request)
        return rows.annotate(n=Count("members")).prefetch_related("conditions")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Return the list, whose rows know what all processes counted of them."""
        shown = super().get_changelist_instance(request)
        told = process_statistics.others("")
        partitions = process_statistics.partitions_of_all({}, told)
        lookups = _lookups(process_statistics.of_all(Statistics(), told))
        for row in shown.result_list:
            row.partition = partitions.get(row.name, {})
            row.lookups = lookups.get(row.name, Counter())
        return shown

    @admin.display(description=_("rule"))
    def rule_in_words(self, segment: Segment) -> str:
        """Return whom it takes."""
        return segment.described

    @admin.display(description=_("members"), ordering="n")
    def members_link(self, segment: Any) -> str:
        """Return how many users it has, with a link to them."""
        url = reverse("admin:serving_app_segmentmember_changelist")
        return format_html('<a href="{}?segment__id__exact={}">{}</a>', url, segment.pk, segment.n)

    @admin.display(description=_("hit rate"))
    def hit_rate(self, segment: Any) -> str:
        """Return how many of its look-ups were hits, over all processes."""
        hits = sum(n for end, n in segment.lookups.items() if end not in {MISS, NEGATIVE})
        asked = hits + segment.lookups[MISS]
        return f"{hits / asked:.1%}" if asked else "—"

    @admin.display(description=_("share used"))
    def used(self, segment: Any) -> str:
        """Return how full its share of L1 is, over all processes."""
        capacity = segment.partition.get("capacity", 0)
        return f"{segment.partition['weight'] / capacity:.0%}" if capacity else "—"

    # --- What a rule would select ---

    @theme.action(  # type: ignore[untyped-decorator]  # theme has no types
        description=_("What would it select?"), attrs={"name": "try_rule"}
    )
    def try_rule(self, request: HttpRequest, segment: Segment) -> None:
        """Do nothing here: `changeform_view` sees that the button was pressed."""

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Return the form; after "What would it select?", that, with nothing saved."""
        if object_id is None:  # the theme shows own buttons only for what is there already
            buttons = self.get_actions_submit_line(request, object_id)
            extra_context = {**(extra_context or {}), "actions_submit_line": buttons}
        if request.method != "POST" or "try_rule" not in request.POST:
            shown: HttpResponse = super().changeform_view(
                request, object_id, form_url, extra_context
            )
            return shown
        tried: list[tuple[Segment, list[Condition]]] = []
        with transaction.atomic():
            # All that a saving checks is checked; then it is as if it had not been.
            request.tried_rule = tried  # type: ignore[attr-defined]
            shown = super().changeform_view(request, object_id, form_url, extra_context)
            transaction.set_rollback(True)
        if not tried:
            return shown
        segment, conditions = tried[0]
        return self._simulation(request, segment, conditions, new=object_id is None)

    def save_related(self, request: Any, form: Any, formsets: Any, change: bool) -> None:
        """Save the rule; if it is only tried, note it."""
        super().save_related(request, form, formsets, change)
        if hasattr(request, "tried_rule"):
            rows = SegmentCondition.objects.filter(segment=form.instance)  # as they are now
            rule = [each.condition() for each in rows]
            request.tried_rule.append((form.instance, rule))

    def response_add(self, request: HttpRequest, obj: Any, *args: Any, **more: Any) -> HttpResponse:
        """Say that it was saved, unless it was only tried."""
        if hasattr(request, "tried_rule"):
            return HttpResponseRedirect("")
        response: HttpResponse = super().response_add(request, obj, *args, **more)
        return response

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        """Say that it was saved, unless it was only tried."""
        if hasattr(request, "tried_rule"):
            return HttpResponseRedirect("")
        response: HttpResponse = super().response_change(request, obj)
        return response

    def _simulation(
        self, request: HttpRequest, segment: Segment, conditions: list[Condition], *, new: bool
    ) -> HttpResponse:
        found = simulate(
            conditions,
            order=segment.order,
            name=segment.name,
            replaces=None if new else segment.pk,
        )
        hidden = [
            (name, value)
            for name, values in request.POST.lists()
            for value in values
            if name not in {"csrfmiddlewaretoken", "try_rule"}
        ]
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": _("What %(name)s would select now") % {"name": segment.name},
            "rule": "; ".join(map(str, conditions)),
            "found": found,
            "hidden": hidden,
        }
        page = "admin/serving_app/segment_simulation.html"
        return TemplateResponse(request, page, context)


def _lookups(statistics: Statistics) -> Mapping[str, Counter[str]]:
    """Return how look-ups ended by segment, over all models."""
    summed: dict[str, Counter[str]] = {}
    for stats in statistics.models.values():
        for segment, ends in stats.lookups.items():
            summed.setdefault(segment, Counter()).update(ends)
    return summed


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
