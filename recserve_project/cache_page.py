"""The admin's page of the cache: forget what is cached, and see who did before."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin import AdminSite
from django.contrib.admin.models import DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from cache_app import theme
from cache_app.core.generations import scope
from cache_app.invalidation import invalidate_scopes
from cache_app.models import Invalidation
from serving_app.models import ServedModel

PERMISSION = "serving_app.operate"
"""Who may see and use the page: staff with this permission; a superuser has every one."""
SHOWN = 20
"""Entries of the history."""

KINDS = {
    "user_id": gettext_lazy("a user"),
    "model_name": gettext_lazy("a model"),
    "tag": gettext_lazy("a tag"),
    "segment": gettext_lazy("a segment"),
    "key": gettext_lazy("a key"),
    "all": gettext_lazy("everything"),
}


class InvalidateForm(forms.Form):
    """What to forget."""

    kind = forms.ChoiceField(
        label=gettext_lazy("Forget the answers of"),
        choices=list(KINDS.items()),
        widget=theme.UnfoldAdminSelectWidget,
    )
    name = forms.CharField(
        label=gettext_lazy("Which"),
        required=False,
        max_length=4000,
        widget=theme.UnfoldAdminTextInputWidget,
        help_text=gettext_lazy(
            "The user's id, the model's name, the tag, the segment, or the key; nothing for "
            "everything."
        ),
    )
    confirmed = forms.BooleanField(required=False, widget=forms.HiddenInput)

    def clean(self) -> dict[str, Any]:
        """Return the values, with the ``scope`` that they name.

        Raises:
            ValidationError: They name none.
        """
        given = self.cleaned_data
        kind, name = given.get("kind"), given.get("name", "")
        if kind is None or "name" in self.errors:
            return given
        if kind == "all":
            if name:
                raise ValidationError({"name": _("Everything has no name; leave this empty.")})
            given["scope"] = scope()
            return given
        if not name:
            raise ValidationError({"name": _("Say which.")})
        try:
            given["scope"] = scope(**{kind: name})
        except ValueError as error:
            raise ValidationError({"name": str(error)}) from error
        return given

    @property
    def described(self) -> str:
        """Return in words what a valid form names."""
        kind, name = self.cleaned_data["kind"], self.cleaned_data["name"]
        return f"{KINDS[kind]} {name}".strip()


def cache_page(request: HttpRequest, admin_site: AdminSite) -> HttpResponse:
    """Return the page; a posted form is carried out, everything only once it is confirmed.

    Raises:
        PermissionDenied: The user is no staff, or may not operate.
    """
    if not (admin_site.has_permission(request) and request.user.has_perm(PERMISSION)):
        raise PermissionDenied
    form = InvalidateForm(request.POST or None)
    confirm = False
    if request.method == "POST" and form.is_valid():
        if form.cleaned_data["kind"] != "all" or form.cleaned_data["confirmed"]:
            try:
                epoch = invalidate_scopes([form.cleaned_data["scope"]])
            except ValueError as error:
                form.add_error("name", str(error))
            else:
                log_invalidation(request, form.described, epoch)
                said = _("Forgotten: the answers of %(what)s.") % {"what": form.described}
                messages.success(request, said)
                return HttpResponseRedirect(reverse("admin:cache"))
        else:
            confirm = True
    context = {
        **admin_site.each_context(request),
        "title": _("Forget everything?") if confirm else _("Cache"),
        "form": form,
        "confirm": confirm,
        "models": ServedModel.objects.values_list("name", flat=True),
        "history": LogEntry.objects.filter(content_type=_content_type()).select_related("user")[
            :SHOWN
        ],
    }
    return render(request, "admin/cache.html", context)


def log_invalidation(request: HttpRequest, what: str, epoch: int) -> None:
    """Keep in the admin's history who forgot what."""
    assert request.user.pk is not None, "admin_view lets nobody else in"
    LogEntry.objects.create(
        user_id=request.user.pk,
        content_type=_content_type(),
        object_id=str(epoch),
        object_repr=what[:200],
        action_flag=DELETION,
        change_message=f"Invalidated (epoch {epoch})",
    )


def _content_type() -> ContentType:
    return ContentType.objects.get_for_model(Invalidation)
