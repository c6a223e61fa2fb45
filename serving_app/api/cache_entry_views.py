"""``GET /cache/entries``."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from cache_app.core.residences import Residence
from plugins import InvalidInput
from serving_app.api.authentication import access_of
from serving_app.api.permissions import CanOperate
from serving_app.cache_entries import CachedEntry, entries_of
from serving_app.reconciler import process_name

__all__ = ["CacheEntriesView"]

_LONGEST = 256
"""Characters of a user id, as in a prediction."""


class CacheEntriesView(APIView):
    """A user's entries in the cache."""

    permission_classes = (CanOperate,)

    @extend_schema(
        parameters=[
            OpenApiParameter("user_id", str, required=True, description="Whose entries."),
            OpenApiParameter("model_name", str, description="Of which model; absent: of all."),
        ],
        responses={200: OpenApiTypes.OBJECT},
    )
    def get(self, request: Request) -> Response:
        """Return what this process's memory and the levels below have of a user's answers."""
        query = request.query_params
        unknown = sorted(set(query) - {"user_id", "model_name", "format"})
        if unknown:
            raise InvalidInput(
                f"Unknown parameter {unknown[0][:50]!r}; use user_id or model_name.",
                field=unknown[0][:50],
            )
        user = query.get("user_id", "")
        if not 0 < len(user) <= _LONGEST:
            raise InvalidInput(
                f"user_id must be a user, of 1 to {_LONGEST} characters.", field="user_id"
            )
        access, model = access_of(request), query.get("model_name") or None
        if model is not None:
            access.check_model(model, "operate")
        found = entries_of(user, model_name=model, models=access.models_for("operate"))
        now = time.time()
        return Response(
            {
                "process": process_name(),
                "user_id": user,
                "entries": [_entry(each, now) for each in found.entries],
                "more": found.more,
                "forgotten": found.forgotten,
                "away": found.away,
            }
        )


def _entry(entry: CachedEntry, now: float) -> dict[str, Any]:
    parts = entry.parts
    return {
        "key": entry.key,
        "user_id": parts.user_id,
        "model_name": parts.model_name,
        "model_version": parts.version,
        "aliases": entry.aliases,
        "segment": parts.segment,
        "context": entry.context,
        "own_features": bool(parts.features),
        "asked": entry.asked,
        "levels": [_residence(each, now) for each in entry.residences],
    }


def _residence(residence: Residence, now: float) -> dict[str, Any]:
    values = dataclasses.asdict(residence)
    used = residence.last_used
    return {
        "level": values["level"],
        "age_seconds": round(max(0.0, now - residence.created), 3),
        "ttl_seconds": round(residence.fresh_until - residence.created, 3),
        "fresh": residence.fresh_until > now,
        "expires_in_seconds": round(residence.expires - now, 3),
        "bytes": residence.size,
        "tier": residence.tier,
        "hits": residence.hits,
        "last_used_seconds": None if used is None else round(max(0.0, now - used), 3),
    }
