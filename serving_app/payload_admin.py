"""Logged requests in the admin: to look at, and to run again."""

from __future__ import annotations

import json
import re
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from cache_app import theme
from serving_app import wiring
from serving_app.core.live_version import LiveVersion
from serving_app.payload_models import LoggedRequest
from serving_app.replay import Summary, answers
from serving_app.request_log import user_hash

__all__ = ["LoggedRequestAdmin"]

MOST = 100
"""Requests that are run again at once: the page waits for them, and the model has others."""
HASHED = 20_000
"""The latest requests among which a user is looked for by the hash that logs have."""
_HASH = re.compile(r"[0-9a-f]{16}").fullmatch


def _live(name: str) -> dict[int, LiveVersion]:
    """Return the versions of a model that are live in this process, by number."""
    routes = wiring.get_serving().live.routes().get(name)
    return {} if routes is None else {each.record.version: each for each in routes.versions}


@admin.action(description=_("Run again, and compare …"), permissions=["operate"])
def run_again(
    owner: LoggedRequestAdmin, request: HttpRequest, queryset: QuerySet[LoggedRequest]
) -> TemplateResponse | None:
    """Run requests against a live version, and show how its answers differ from those given."""
    rows = list(queryset.order_by("-at", "-pk")[: MOST + 1])
    models = {row.model for row in rows}
    if len(models) != 1 or len(rows) > MOST:
        owner.message_user(
            request,
            _("Choose at most %(most)d requests of one model; manage.py replay takes more.")
            % {"most": MOST},
            "ERROR",
        )
        return None
    (model,) = models
    live = _live(model)
    if not live:
        owner.message_user(
            request, _("No version of %(model)s is live here.") % {"model": model}, "ERROR"
        )
        return None
    form = _form(live)(request.POST if request.POST.get("confirmed") else None)
    compared = summary = None
    if form.is_valid():
        compared, summary = _compared(rows, live[int(form.cleaned_data["version"])])
    return TemplateResponse(
        request,
        "admin/serving_app/run_again.html",
        {
            **owner.admin_site.each_context(request),
            "title": _("Run %(n)d requests of %(model)s again") % {"n": len(rows), "model": model},
            "opts": owner.opts,
            "form": form,
            "chosen": [row.pk for row in rows],
            "action": "run_again",
            "checkbox": ACTION_CHECKBOX_NAME,
            "compared": compared,
            "summary": summary,
        },
    )


def _form(live: dict[int, LiveVersion]) -> type[forms.Form]:
    choices = [(str(number), f"{live[number].record.label}") for number in sorted(live)]

    class Form(forms.Form):
        version = forms.ChoiceField(
            label=_("Version"),
            choices=choices,
            widget=theme.UnfoldAdminSelectWidget,
            help_text=_("Those that are live in this process; manage.py replay loads any."),
        )

    return Form


def _compared(
    rows: list[LoggedRequest], version: LiveVersion
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return each pair of answers, and how they compare together. Nothing is cached."""
    summary, shown = Summary(), []
    step = max(1, version.record.max_queue // 4)  # what is live has the queue, too
    for at in range(0, len(rows), step):
        part = rows[at : at + step]
        for row, now in zip(part, answers(part, version), strict=True):
            summary.add((row.items, row.scores), now)
            failed = isinstance(now, Exception)
            items = [] if isinstance(now, Exception) else list(now[0])
            shown.append(
                {
                    "row": row,
                    "items": items,
                    "error": str(now) if failed else "",
                    "same": items == list(row.items),
                }
            )
    return shown, summary.as_json()


@admin.register(LoggedRequest)
class LoggedRequestAdmin(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Predict requests that were kept with their answers."""

    show_full_result_count = False  # there may be a hundred thousand
    list_display = ("at", "model", "version", "user", "source", "latency_ms", "request_id")
    list_filter = ("model", "source", "at")
    search_fields = ("=request_id",)
    search_help_text = _(
        "A user, as it was sent or by the hash in the logs; a model, name@version or a request id."
    )
    date_hierarchy = "at"
    actions = (run_again,)
    fields = ("at", "request_id", "model", "version", "source", "latency_ms", "asked", "answered")
    readonly_fields = ("asked", "answered")

    @admin.display(description=_("user"))
    def user(self, row: LoggedRequest) -> Any:
        """Return who was recommended to."""
        return row.body.get("user_id")

    @admin.display(description=_("request"))
    def asked(self, row: LoggedRequest) -> str:
        """Return the request as JSON."""
        return format_html("<pre>{}</pre>", json.dumps(row.body, indent=2, ensure_ascii=False))

    @admin.display(description=_("answer"))
    def answered(self, row: LoggedRequest) -> str:
        """Return the items with their scores."""
        pairs = zip(row.items, row.scores, strict=False)
        lines = "\n".join(f"{item}  {score:.6g}" for item, score in pairs)
        return format_html("<pre>{}</pre>", lines)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[LoggedRequest], search_term: str
    ) -> tuple[QuerySet[LoggedRequest], bool]:
        """Return the rows of a user, a model, a version or a request, as the term names one."""
        term = search_term.strip()
        if not term:
            return queryset, False
        wanted = Q(request_id=term) | Q(model=term) | Q(body__user_id=term)
        name, at, number = term.rpartition("@")
        if at and number.isdecimal() and len(number) < 10:
            wanted |= Q(model=name, version=int(number))
        if re.fullmatch(r"-?\d{1,18}", term):
            wanted |= Q(body__user_id=int(term))
        if _HASH(term):
            latest = queryset.order_by("-pk").values_list("pk", "body__user_id")[:HASHED]
            wanted |= Q(pk__in=[pk for pk, user in latest if user_hash(user) == term])
        return queryset.filter(wanted), False

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may run requests again."""
        return bool(request.user.has_perm("serving_app.operate"))

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: they come by themselves."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: they say what happened."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: they go by themselves."""
        return False
