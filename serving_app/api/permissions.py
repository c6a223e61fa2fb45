"""The three roles as permission classes."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request


class _HasPermission(BasePermission):
    """Grants access to users with one permission of serving_app, by group or directly."""

    codename: str

    def has_permission(self, request: Request, view: Any) -> bool:
        """Return whether the user holds the permission; inactive users hold none."""
        return request.user.has_perm(f"serving_app.{self.codename}")


class CanPredict(_HasPermission):
    """May ask for recommendations."""

    codename = "predict"


class CanOperate(_HasPermission):
    """May see statistics and clear the cache."""

    codename = "operate"


class CanAdminister(_HasPermission):
    """May register versions and make them live."""

    codename = "administer"


class CanOperateOrAdminister(BasePermission):
    """Operators read; administrators change, too."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """Return whether the user's role allows the method."""
        role = CanOperate if request.method in {"GET", "HEAD", "OPTIONS"} else CanAdminister
        return role().has_permission(request, view)
