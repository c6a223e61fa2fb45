"""The admin's page of one user's cached answers: where they are; drop or refresh one."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _

from cache_app.core.residences import Residence
from cache_app.invalidation import invalidate
from cache_app.models import Epoch
from plugins import RecserveError
from recserve_project.cache_page import PERMISSION, log_invalidation
from serving_app.cache_entries import CachedEntry, compute_anew, entries_of, find_entry
from serving_app.models import ServedModel
from serving_app.reconciler import process_name

__all__ = ["entries_page"]

_LONGEST = 256


def entries_page(request: HttpRequest, admin_site: AdminSite) -> HttpResponse:
    """Return the page; a posted action is carried out, dropping only once it is confirmed.

    Raises:
        PermissionDenied: The user is no staff, or may not operate.
    """
    if not (admin_site.has_permission(request) and request.user.has_perm(PERMISSION)):
        raise PermissionDenied
    given = request.POST if request.method == "POST" else request.GET
    user, model = given.get("user_id", "").strip()[:_LONGEST], given.get("model_name", "")
    context: dict[str, Any] = {
        **admin_site.each_context(request),
        "title": _("Cached answers"),
        "user_id": user,
        "model_name": model,
        "models": ServedModel.objects.values_list("name", flat=True),
        "process": process_name(),
    }
    if request.method == "POST":
        entry = find_entry(user, given.get("key", ""))
        if entry is not None and given.get("action") == "drop" and not given.get("confirmed"):
            context |= {"title": _("Drop this answer?"), "confirm": _shown(entry)}
            return render(request, "admin/cache_entries.html", context)
        _carry_out(request, entry, given.get("action", ""))
        query = urlencode({"user_id": user, "model_name": model})
        return HttpResponseRedirect(f"{reverse('admin:cache_entries')}?{query}")
    if user:
        found = entries_of(user, model_name=model or None)
        context |= {"found": found, "entries": [_shown(entry) for entry in found.entries]}
    return render(request, "admin/cache_entries.html", context)


def _carry_out(request: HttpRequest, entry: CachedEntry | None, action: str) -> None:
    """Drop or refresh an entry, and say what came of it."""
    if entry is None:
        messages.warning(request, _("This answer is not there any more."))
        return
    said = f"user {entry.parts.user_id}, {entry.parts.model_name}@{entry.parts.version}"
    if action == "drop":
        epoch = invalidate(key=entry.key)
        log_invalidation(request, f"an answer of {said}", epoch)
        messages.success(request, _("Dropped: the answer of %(what)s.") % {"what": said})
        return
    if action != "refresh" or entry.request is None:
        messages.error(request, _("This cannot be computed: its question is not known."))
        return
    try:
        answer = compute_anew(entry)
    except RecserveError as error:
        messages.error(
            request,
            _("Dropped, but not computed: %(why)s It is computed when it is asked for next.")
            % {"why": error},
        )
    else:
        text = (
            _("The model could not answer %(what)s; the answer is dropped.")
            if answer.source == "fallback"
            else _("Computed anew: the answer of %(what)s.")
        )
        level = messages.WARNING if answer.source == "fallback" else messages.SUCCESS
        messages.add_message(request, level, text % {"what": said})
    log_invalidation(request, f"an answer of {said}, to compute it anew", Epoch.now())


def _shown(entry: CachedEntry) -> dict[str, Any]:
    """Return what the template shows of an entry."""
    now = time.time()
    context = entry.context
    return {
        "key": entry.key,
        "parts": entry.parts,
        "aliases": ", ".join(entry.aliases),
        "context": None if context is None else json.dumps(context, ensure_ascii=False),
        "has_context": bool(entry.parts.context),
        "can_refresh": entry.request is not None,
        "residences": [_residence(each, now) for each in entry.residences],
    }


def _residence(residence: Residence, now: float) -> dict[str, Any]:
    return {
        "level": residence.level.upper(),
        "age": _duration(now - residence.created),
        "fresh": residence.fresh_until > now,
        "fresh_for": _duration(residence.fresh_until - now),
        "expires_in": _duration(residence.expires - now),
        "size": residence.size,
        "tier": residence.tier,
        "hits": residence.hits,
    }


def _duration(seconds: float) -> str:
    """Return seconds in the two largest units."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
