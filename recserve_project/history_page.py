"""The admin's page of the history: who changed what, in the admin and by the API."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

__all__ = ["history_page"]

PERMISSION = "serving_app.operate"
"""Who may see the page: staff with this permission; a superuser has every one."""
SHOWN = 50
"""Entries of a page."""

ACTIONS = {
    ADDITION: gettext_lazy("added"),
    CHANGE: gettext_lazy("changed"),
    DELETION: gettext_lazy("deleted"),
}


def history_page(request: HttpRequest, admin_site: AdminSite) -> HttpResponse:
    """Return the page, with what its filters leave.

    Raises:
        PermissionDenied: The user is no staff, or may not operate.
    """
    if not (admin_site.has_permission(request) and request.user.has_perm(PERMISSION)):
        raise PermissionDenied
    chosen = {name: request.GET.get(name, "").strip()[:200] for name in ("by", "kind", "text")}
    pages = Paginator(_entries(**chosen), SHOWN)
    page = pages.get_page(request.GET.get("page"))
    query = request.GET.copy()
    query.pop("page", None)
    context = {
        **admin_site.each_context(request),
        "title": _("History"),
        "page": page,
        "entries": [_shown(admin_site, request, entry) for entry in page],
        "chosen": chosen,
        "query": query.urlencode(),
        "kinds": _kinds(),
        "people": LogEntry.objects.order_by("user__username")
        .values_list("user__username", flat=True)
        .distinct(),
    }
    return render(request, "admin/history.html", context)


def _entries(*, by: str, kind: str, text: str) -> QuerySet[LogEntry]:
    rows = LogEntry.objects.select_related("user", "content_type").order_by("-action_time", "-pk")
    if by:
        rows = rows.filter(user__username=by)
    if kind:
        app, _dot, model = kind.partition(".")
        rows = rows.filter(content_type__app_label=app, content_type__model=model)
    if text:
        rows = rows.filter(Q(object_repr__icontains=text) | Q(change_message__icontains=text))
    return rows


def _kinds() -> list[tuple[str, str]]:
    """Return the kinds of things that the history has, each by its name and in words."""
    types = ContentType.objects.filter(logentry__isnull=False).distinct()
    kinds = [(f"{each.app_label}.{each.model}", str(each.name)) for each in types]
    return sorted(kinds, key=lambda kind: kind[1])


def _shown(admin_site: AdminSite, request: HttpRequest, entry: LogEntry) -> dict[str, Any]:
    """Return what the template shows; a link only where the thing can be seen."""
    model = entry.content_type.model_class() if entry.content_type else None
    linked = (
        model is not None
        and admin_site.is_registered(model)
        and not entry.is_deletion()
        and admin_site.get_model_admin(model).has_view_permission(request)
    )
    return {
        "at": entry.action_time,
        "by": entry.user,
        "kind": entry.content_type.name if entry.content_type else "",
        "what": entry.object_repr,
        "action": ACTIONS.get(entry.action_flag, ""),
        "message": entry.get_change_message(),
        "url": entry.get_admin_url() if linked else None,
    }
