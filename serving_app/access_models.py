"""Access in the database: service tokens, signing keys, and which group may ask which models."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from django.conf import settings
from django.contrib.auth.models import Group
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from serving_app.core.access import ROLES

__all__ = [
    "TOKEN_START",
    "AccessEpoch",
    "GroupModels",
    "RoleGrant",
    "ServiceToken",
    "SigningKey",
]

TOKEN_START = "rst"  # noqa: S105  (how every service token begins)


class ServiceToken(models.Model):
    """A long-lived token of a program. Its text is shown once; the row has a digest of it."""

    class Role(models.TextChoices):
        """What the token may do; each role includes those before it."""

        PREDICT = "predict", _("predict")
        OPERATE = "operate", _("operate")
        ADMINISTER = "administer", _("administer")

    name = models.CharField(_("name"), max_length=100, help_text=_("Which program has it."))
    prefix = models.CharField(
        _("prefix"), max_length=16, unique=True, editable=False, help_text=_("How it begins.")
    )
    digest = models.CharField(max_length=64, editable=False)
    role = models.CharField(_("role"), max_length=16, choices=Role.choices, default=Role.PREDICT)
    all_models = models.BooleanField(
        _("all models"),
        default=True,
        help_text=_("Off: it may ask only the models chosen below. Only for the role predict."),
    )
    served_models = models.ManyToManyField(
        "serving_app.ServedModel", blank=True, related_name="+", verbose_name=_("models")
    )
    expires = models.DateTimeField(
        _("expires"), null=True, blank=True, help_text=_("Empty: it does not.")
    )
    revoked = models.DateTimeField(_("revoked"), null=True, blank=True, editable=False)
    last_used = models.DateTimeField(
        _("last used"), null=True, blank=True, editable=False, help_text=_("To the hour.")
    )
    created = models.DateTimeField(_("created"), auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
        verbose_name=_("created by"),
    )

    class Meta:
        """Names and order."""

        verbose_name = _("service token")
        verbose_name_plural = _("service tokens")
        ordering = ("-created", "-pk")

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    def give_secret(self) -> str:
        """Give the row a new text, and return it; it can never be shown again."""
        start = f"{TOKEN_START}_{secrets.token_hex(4)}"
        text = f"{start}_{secrets.token_urlsafe(32)}"
        self.prefix, self.digest = start, digest_of(text)
        return text

    def is_text(self, text: str) -> bool:
        """Return whether this is the token's text, in a time that says nothing about it."""
        return hmac.compare_digest(self.digest, digest_of(text))

    def is_valid(self) -> bool:
        """Return whether it may be used: neither revoked nor expired."""
        return self.revoked is None and (self.expires is None or self.expires > timezone.now())

    def permissions(self) -> frozenset[str]:
        """Return the permissions of its role."""
        return frozenset(ROLES[: ROLES.index(self.role) + 1])

    def revoke(self) -> None:
        """Let it be valid nowhere any more, within `REVOCATION_SECONDS`."""
        if self.revoked is None:
            self.revoked = timezone.now()
            self.save(update_fields=["revoked"])


def digest_of(text: str) -> str:
    """Return the digest of a token; its 256 random bits need no slow hash."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class SigningKey(models.Model):
    """A key that signs JWTs. It is derived from its salt and ``SECRET_KEY``: neither is enough."""

    kid = models.CharField(_("key id"), max_length=16, unique=True, editable=False)
    salt = models.CharField(max_length=64, editable=False)
    created = models.DateTimeField(_("created"), auto_now_add=True)
    retires = models.DateTimeField(
        _("retires"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("Until then it verifies what it signed. Empty: it signs."),
    )

    class Meta:
        """Names and order."""

        verbose_name = _("signing key")
        verbose_name_plural = _("signing keys")
        ordering = ("-created", "-pk")

    def __str__(self) -> str:
        return self.kid

    def secret(self) -> bytes:
        """Return the key."""
        what = f"recserve jwt {self.kid} {self.salt}".encode()
        return hmac.digest(settings.SECRET_KEY.encode(), what, "sha256")

    @classmethod
    def make(cls) -> SigningKey:
        """Return a new key that is in the database."""
        return cls.objects.create(kid=secrets.token_hex(8), salt=secrets.token_hex(32))


class GroupModels(models.Model):
    """Which models the members of a group may ask by what the group grants them.

    Permissions add up: who may predict by another group, too, may also ask that one's models.
    """

    group = models.OneToOneField(
        Group, on_delete=models.CASCADE, related_name="model_limits", verbose_name=_("group")
    )
    served_models = models.ManyToManyField(
        "serving_app.ServedModel", blank=True, related_name="+", verbose_name=_("models")
    )

    class Meta:
        """Names."""

        verbose_name = _("models of a group")
        verbose_name_plural = _("models of groups")

    def __str__(self) -> str:
        return str(self.group)


class RoleGrant(models.Model):
    """A permission that migrating gave to a role's group: it is given once, and not again."""

    group = models.ForeignKey(
        Group, on_delete=models.CASCADE, related_name="role_grants", verbose_name=_("group")
    )
    codename = models.CharField(_("permission"), max_length=100)
    given = models.DateTimeField(_("given"), auto_now_add=True)

    class Meta:
        """Names and order; who may see the group may see them."""

        verbose_name = _("permission given by recserve")
        verbose_name_plural = _("permissions given by recserve")
        ordering = ("-given", "codename")
        default_permissions = ()
        constraints = (
            models.UniqueConstraint(fields=["group", "codename"], name="each_is_given_once"),
        )

    def __str__(self) -> str:
        return self.codename


class AccessEpoch(models.Model):
    """One row, whose number grows when anything about access changes."""

    latest = models.BigIntegerField(default=0)

    class Meta:
        """Names."""

        verbose_name = _("access epoch")
        verbose_name_plural = _("access epochs")

    def __str__(self) -> str:
        return str(self.latest)

    @classmethod
    def now(cls) -> int:
        """Return the number; 0: nothing has ever changed."""
        latest = cls.objects.filter(pk=1).values_list("latest", flat=True).first()
        return latest or 0

    @classmethod
    def advance(cls) -> None:
        """Let it grow."""
        row = cls.objects.filter(pk=1)
        if not row.update(latest=models.F("latest") + 1):
            _, made = cls.objects.get_or_create(pk=1, defaults={"latest": 1})
            if not made:  # another process was first, with a change of its own
                row.update(latest=models.F("latest") + 1)
