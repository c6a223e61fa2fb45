"""The groups of the roles, which migrating creates, and to which it gives what is new.

A group is given each permission once, and `RoleGrant` remembers it: an upgrade opens its new pages
to those who had the old ones, and what an administrator took away stays away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.apps import AppConfig
from django.contrib.auth.management import create_permissions

__all__ = ["ROLES", "give"]

ROLES = {
    "recserve predict": ("predict",),
    "recserve operate": ("predict", "operate"),
    "recserve administer": ("predict", "operate", "administer"),
}
"""The groups, and what each may by the API. Those who operate see everything in the admin, too, and
those who administer may do everything."""


def give(sender: AppConfig, using: str, apps: Any) -> Mapping[str, list[str]]:
    """Create the groups that are missing, and give each what it was never given.

    Args:
        sender: This app.
        using: The database's alias.
        apps: The models as the migrations that were applied left the tables.

    Returns:
        What groups that were there before may do from now on: codenames by the group's name.
    """
    try:
        group, permission = apps.get_model("auth", "Group"), apps.get_model("auth", "Permission")
    except LookupError:  # auth is not there yet
        return {}
    create_permissions(sender, 0, using=using, apps=apps)
    ours = permission.objects.using(using).filter(content_type__app_label=sender.label)
    permissions = list(ours.order_by("pk"))
    told = {}
    for name, codenames in ROLES.items():
        role, created = group.objects.using(using).get_or_create(name=name)
        wanted = [each for each in permissions if _may(codenames, each.codename)]
        new = _never_given(role, wanted, apps, created=created)
        role.permissions.add(*new)
        if new and not created:
            told[name] = [each.codename for each in new]
    return told


def _may(codenames: tuple[str, ...], codename: str) -> bool:
    if "administer" in codenames:
        return True
    return codename in codenames or ("operate" in codenames and codename.startswith("view_"))


def _never_given(role: Any, wanted: list[Any], apps: Any, *, created: bool) -> list[Any]:
    """Return the permissions that the group was never given, and remember that it is now."""
    try:
        grant = apps.get_model("serving_app", "RoleGrant")
    except LookupError:  # migrated to a time before it
        return wanted if created else []
    grants = grant.objects.using(role._state.db)  # noqa: SLF001  (public, in spite of its name)
    known = set(grants.filter(group_id=role.pk).values_list("codename", flat=True))
    if created or known:
        new = [each for each in wanted if each.codename not in known]
    else:
        new = _made_later(role, wanted)
    grants.bulk_create(
        grant(group_id=role.pk, codename=each.codename)
        for each in wanted
        if each.codename not in known
    )
    return new


def _made_later(role: Any, wanted: list[Any]) -> list[Any]:
    """Return what is new to a group from before grants were remembered.

    It was given once whatever there was, so what is older than anything that it has was taken away.
    """
    has = set(role.permissions.values_list("pk", flat=True))
    newest = max((each.pk for each in wanted if each.pk in has), default=float("inf"))
    return [each for each in wanted if each.pk > newest]
