"""Access in the admin: service tokens, signing keys, and the models of groups."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.models import Permission
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Exists, OuterRef, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from rest_framework_simplejwt.token_blacklist.models import BlacklistedToken, OutstandingToken

from cache_app import theme
from serving_app.access_models import GroupModels, RoleGrant, ServiceToken, SigningKey
from serving_app.release_admin import ReadOnlyInline
from serving_app.signing import rotate

for _unwanted in (BlacklistedToken, OutstandingToken):  # book-keeping of simplejwt's
    if admin.site.is_registered(_unwanted):
        admin.site.unregister(_unwanted)


class ServiceTokenForm(ModelForm):  # type: ignore[type-arg]  # no generic at run time
    """A service token."""

    def clean(self) -> dict[str, Any]:
        """Refuse a list of models where it would not hold."""
        given = super().clean() or {}
        limited = not given.get("all_models", True)
        if limited and given.get("role") != ServiceToken.Role.PREDICT:
            raise ValidationError(
                {"all_models": _("Only a token of the role predict can be limited to models.")}
            )
        return given


@admin.register(ServiceToken)
class ServiceTokenAdmin(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Service tokens. The text of a new one is shown once, after it was saved."""

    form = ServiceTokenForm
    when_empty = _("A program needs one to ask. Its text is shown once, when it is added.")
    list_display = ("name", "prefix", "role", "valid", "expires", "last_used", "created")
    list_filter = ("role",)
    search_fields = ("name", "prefix")
    fields = ("name", "role", "all_models", "served_models", "expires")
    autocomplete_fields = ("served_models",)
    actions = ("revoke",)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Return what never changes; a revoked token does not come back."""
        seen = ("prefix", "last_used", "created", "created_by", "revoked")
        return (*seen, *self.fields) if obj and obj.revoked else seen

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Return what is asked of a new token, and also what became of an old one."""
        more = ("prefix", "last_used", "created", "created_by", "revoked")
        return (*self.fields, *more) if obj else self.fields

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save the token, and show the text of a new one."""
        if change:
            super().save_model(request, obj, form, change)
            return
        obj.created_by = request.user
        text = obj.give_secret()
        super().save_model(request, obj, form, change)
        self.message_user(
            request,
            format_html(str(_("The token is <code>{}</code>. It is not shown again.")), text),
            messages.WARNING,
        )

    @admin.display(description=_("valid"), boolean=True)
    def valid(self, token: ServiceToken) -> bool:
        """Return whether it may be used."""
        return token.is_valid()

    @admin.action(description=_("Revoke"), permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ServiceToken]) -> None:
        """Revoke the tokens."""
        for token in queryset:
            token.revoke()
            self.log_change(request, token, "Revoked")


@admin.register(SigningKey)
class SigningKeyAdmin(theme.ModelAdmin):  # type: ignore[misc]  # theme has no types
    """Signing keys. They are made by rotating, and never changed."""

    when_empty = _("The first is made when somebody signs in to the API.")
    list_display = ("kid", "created", "retires")
    actions_list = ("rotate_key",)
    list_before_template = "admin/serving_app/about_signing_keys.html"

    def get_urls(self) -> list[URLPattern]:
        """Return the admin's URLs, and the one that rotates."""
        own = path(
            "rotate/", self.admin_site.admin_view(self.rotate_key), name="signing_key_rotate"
        )
        return [own, *super().get_urls()]

    @theme.action(  # type: ignore[untyped-decorator]  # theme has no types
        description=_("Rotate now"), url_path="rotate"
    )
    def rotate_key(self, request: HttpRequest) -> HttpResponse:
        """Sign with a new key from now on, once that is confirmed: a link must change nothing."""
        if not request.user.has_perm("serving_app.add_signingkey"):
            raise PermissionDenied
        if request.method != "POST":
            context = {
                **self.admin_site.each_context(request),
                "title": _("Rotate now"),
                "opts": self.opts,
            }
            return TemplateResponse(request, "admin/serving_app/confirm_rotation.html", context)
        key = rotate()
        self.log_addition(request, key, "Rotated")
        self.message_user(request, _("Key %(kid)s signs from now on.") % {"kid": key.kid})
        return HttpResponseRedirect(reverse("admin:serving_app_signingkey_changelist"))

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: keys are made by rotating."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: a key never changes."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: a retired key goes by itself."""
        return False


class GroupModelsInline(theme.TabularInline):  # type: ignore[misc]  # theme has no types
    """The models that a group's members may ask."""

    model = GroupModels
    extra = 0
    max_num = 1
    verbose_name = _("limit to models")
    verbose_name_plural = _("limit to models (none: every model)")


class RoleGrantInline(ReadOnlyInline):
    """What migrating gave a role's group, and what it has lost since."""

    model = RoleGrant
    fields = readonly_fields = ("codename", "given", "has")
    show_change_link = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[RoleGrant]:
        """Return the rows, and whether the group still has the permission."""
        has = Permission.objects.filter(
            group=OuterRef("group"),
            codename=OuterRef("codename"),
            content_type__app_label="serving_app",
        )
        rows: QuerySet[RoleGrant] = super().get_queryset(request)
        return rows.annotate(still=Exists(has))

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether there is any: who sees the group may see them."""
        return obj is None or obj.role_grants.exists()

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: what was given once is remembered."""
        return False

    @admin.display(description=_("has it"), boolean=True)
    def has(self, grant: Any) -> bool:
        """Return whether the group still has it; what was taken away is not given again."""
        return bool(grant.still)
