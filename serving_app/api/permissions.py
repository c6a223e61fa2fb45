"""The three roles as permission classes."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from serving_app.api.authentication import access_of

_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class HasRole(BasePermission):
    """Grants access to callers with one permission of serving_app, by token, group or directly."""

    codename: str

    def role(self, request: Request) -> str:
        """Return the permission that the request needs; throttles go by it, too."""
        return self.codename

    def has_permission(self, request: Request, view: Any) -> bool:
        """Return whether the caller holds the permission; inactive users hold none.

        Raises:
            ModelNotPermitted: It does, but not for the model in the path.
        """
        access, role = access_of(request), self.role(request)
        if not access.may(role):
            return False
        name = getattr(view, "kwargs", {}).get("name")
        if name is not None:
            access.check_model(name, role)
        return True


class CanPredict(HasRole):
    """May ask for recommendations."""

    codename = "predict"


class CanOperate(HasRole):
    """May see statistics and clear the cache."""

    codename = "operate"


class CanAdminister(HasRole):
    """May register versions and make them live."""

    codename = "administer"


class CanAdministerEveryModel(CanAdminister):
    """May do what concerns every model: give tokens, which may be for any of them."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """Return whether the caller is an administrator.

        Raises:
            ModelNotPermitted: It is one of some models only.
        """
        if not super().has_permission(request, view):
            return False
        access_of(request).check_every_model(self.codename)
        return True


class CanOperateOrAdminister(HasRole):
    """Operators read; administrators change, too."""

    def role(self, request: Request) -> str:
        """Return the permission that the request's method needs."""
        return "operate" if request.method in _READING else "administer"


class CanOperateEveryModel(CanOperate):
    """May see what concerns every model, as users and their segments do."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """Return whether the caller is an operator.

        Raises:
            ModelNotPermitted: It is one of some models only.
        """
        if not super().has_permission(request, view):
            return False
        access_of(request).check_every_model(self.role(request))
        return True


class CanOperateOrAdministerEveryModel(CanOperateEveryModel, CanOperateOrAdminister):
    """Operators of every model read what concerns them all; administrators change it, too."""

    def role(self, request: Request) -> str:
        """Return the permission that the request's method needs."""
        return CanOperateOrAdminister.role(self, request)
