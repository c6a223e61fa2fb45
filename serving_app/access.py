"""Verifies tokens, for every door: `verify` asks the database, `remembered` never does.

What a token stands for is remembered until it expires or anything about access changes: a token is
revoked, a user deactivated, a permission taken, a key retired. Such a change advances one number in
the database (`AccessEpoch`); this process knows of its own changes at once, and of others' within
``REVOCATION_SECONDS``.
"""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission, User
from django.db import DatabaseError, transaction
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save
from django.utils import timezone
from rest_framework_simplejwt.exceptions import TokenError
from rest_framework_simplejwt.token_blacklist.models import OutstandingToken
from rest_framework_simplejwt.tokens import AccessToken
from rest_framework_simplejwt.utils import get_md5_hash_password

from plugins import TokenNotValid, Unavailable
from serving_app.access_conf import access_settings
from serving_app.access_models import (
    TOKEN_START,
    AccessEpoch,
    GroupModels,
    ServiceToken,
    SigningKey,
)
from serving_app.core.access import ROLES, Access, RememberedAccess

__all__ = [
    "connect",
    "create_token",
    "of_user",
    "refresh",
    "remembered",
    "remembered_digest",
    "reset",
    "verify",
]

logger = logging.getLogger(__name__)

_LONGEST = 8192
"""Bytes of a token at most."""
_PREFIX = len(TOKEN_START) + 9
"""Characters of a service token that are its prefix."""
_COARSE = timedelta(hours=1)
_lock = threading.Lock()
_memory: RememberedAccess | None = None
_looking = threading.Lock()


def remembered(token: bytes) -> Access | None:
    """Return what a token verified lately stands for; None: ask `verify`.

    Takes under 2 µs and never waits: for an event loop.
    """
    return _get_memory().find(token)


def remembered_digest(key: bytes) -> Access | None:
    """Return what `remembered` does, for the `digest` of a token."""
    return _get_memory().find_digest(key)


def verify(token: bytes) -> Access:
    """Return what a token stands for; asks the database when it is not remembered.

    Raises:
        TokenNotValid: It is no token of ours, or not valid any more.
        Unavailable: The database does not answer, and the token is not remembered.
    """
    memory = _get_memory()
    access = memory.find(token)
    if access is not None:
        return access
    if len(token) > _LONGEST:
        raise TokenNotValid("The token is too long.")
    try:
        epoch = _look(memory)
        access = memory.find(token) or _read(token)
    except DatabaseError as error:
        access = memory.find(token, within=access_settings().outage_seconds)
        if access is None:
            raise Unavailable("Tokens cannot be verified now.") from error
        return access
    memory.add(token, access, epoch=epoch)
    return access


def refresh() -> None:
    """Look whether anything about access has changed. Serving calls it every second or so."""
    if _memory is not None:
        _look(_memory)


def reset() -> None:
    """Forget everything, as a new process would (for tests)."""
    global _memory  # noqa: PLW0603  (one memory per process)
    with _lock:
        _memory = None


def create_token(
    name: str,
    *,
    role: str,
    models: list[Any] | None = None,
    expires: datetime | None = None,
    by: User | None = None,
) -> tuple[ServiceToken, str]:
    """Return a new service token, and its text, which nobody can show again.

    Args:
        name: Which program gets it.
        role: One of `ROLES`.
        models: The models that it may ask; None: every one.
        expires: When it ends; None: never.
        by: Who makes it.
    """
    row = ServiceToken(
        name=name, role=role, all_models=models is None, expires=expires, created_by=by
    )
    text = row.give_secret()
    with transaction.atomic():
        row.save()
        row.served_models.set(models or [])
    return row, text


def of_user(user: Any, *, expires: float = float("inf")) -> Access:
    """Return what a user may do: by permissions of its own and of its groups."""
    permissions = frozenset(role for role in ROLES if user.has_perm(f"serving_app.{role}"))
    models = {role: _models_of(user, role) for role in permissions}
    return Access(
        f"user:{user.pk}",
        permissions,
        models.get("predict"),
        expires,
        operated=models.get("operate"),
        administered=models.get("administer"),
    )


def _get_memory() -> RememberedAccess:
    global _memory  # noqa: PLW0603  (one memory per process)
    if _memory is None:
        with _lock:
            if _memory is None:
                settings = access_settings()
                _memory = RememberedAccess(
                    capacity=settings.remembered_tokens, trusted=settings.revocation_seconds
                )
    return _memory


def _look(memory: RememberedAccess) -> int:
    """Return the epoch that the database has, and tell the memory."""
    with _looking:  # else a slow reader could bring back an epoch that is over
        epoch = AccessEpoch.now()
        memory.saw(epoch)
    return epoch


def _read(token: bytes) -> Access:
    text = token.decode("ascii", "replace")
    return _of_service(text) if text.startswith(f"{TOKEN_START}_") else _of_jwt(text)


def _of_service(text: str) -> Access:
    row = ServiceToken.objects.filter(prefix=text[:_PREFIX]).first()
    if row is None or not row.is_text(text) or not row.is_valid():
        raise TokenNotValid("The token is unknown, revoked or expired.")
    now = timezone.now()
    if row.last_used is None or now - row.last_used > _COARSE:
        ServiceToken.objects.filter(pk=row.pk).update(last_used=now)  # no signal: nothing changes
    return Access(
        f"token:{row.prefix}",
        row.permissions(),
        None if row.all_models else frozenset(row.served_models.values_list("name", flat=True)),
        float("inf") if row.expires is None else row.expires.timestamp(),
    )


def _of_jwt(text: str) -> Access:
    try:
        claims = AccessToken(text)  # type: ignore[arg-type]  # it takes the text of one
        user = User.objects.filter(pk=int(claims["user_id"])).first()
        stamp = claims.get("hash_password")
    except (TokenError, KeyError, ValueError, TypeError) as error:
        raise TokenNotValid("The token is expired, or none of ours.") from error
    if user is None or not user.is_active:
        raise TokenNotValid("The token's user is gone or inactive.")
    if stamp != get_md5_hash_password(user.password):
        raise TokenNotValid("The password has changed since the token was given.")
    return of_user(user, expires=float(claims["exp"]))


def _models_of(user: User, role: str) -> frozenset[str] | None:
    """Return for which models a permission of a user's holds; None: for every one."""
    ours = {"content_type__app_label": "serving_app", "codename": role}
    if user.is_superuser or user.user_permissions.filter(**ours).exists():
        return None
    granting = set(
        Group.objects.filter(user=user, permissions__in=Permission.objects.filter(**ours))
    )
    limits = list(GroupModels.objects.filter(group__in=granting).prefetch_related("served_models"))
    if len(limits) < len(granting) or not granting:  # by a group without limits, or by a backend
        return None
    return frozenset(model.name for limit in limits for model in limit.served_models.all())


def connect() -> None:
    """Let every change of access be noticed. Called once, when Django is ready."""
    from serving_app.models import ServedModel  # noqa: PLC0415  (needs the app registry)

    user = get_user_model()
    for sender in (ServiceToken, SigningKey, GroupModels, Group, user):
        post_save.connect(_changed, sender=sender)
        post_delete.connect(_changed, sender=sender)
    pre_save.connect(_without_text, sender=OutstandingToken)
    post_delete.connect(_changed, sender=ServedModel)  # one of its name may come again
    for through in (
        ServiceToken.served_models.through,
        GroupModels.served_models.through,
        user.groups.through,
        user.user_permissions.through,
        Group.permissions.through,
    ):
        m2m_changed.connect(_changed, sender=through)


def _changed(*, update_fields: Any = None, **_: Any) -> None:
    if update_fields is not None and set(update_fields) <= {"last_login", "last_used"}:
        return
    AccessEpoch.advance()
    transaction.on_commit(_refresh_here)


def _without_text(instance: OutstandingToken, **_: Any) -> None:
    """Keep the id of a refresh token, and not its text, which would let in who reads it."""
    instance.token = ""


def _refresh_here() -> None:
    try:
        refresh()
    except DatabaseError:
        logger.warning("This process will see a change of access a little later", exc_info=True)
