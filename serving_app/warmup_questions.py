"""Questions of a warm-up as rows, and back."""

from __future__ import annotations

import json

import msgspec

from plugins import Priority, RecommendationRequest
from serving_app.core.activity import context_text, storable
from serving_app.core.warmup_plan import Planned
from serving_app.warmup_models import WarmupQuestion, WarmupRun

__all__ = ["planned_of", "row_of"]


def row_of(run: WarmupRun, position: int, planned: Planned) -> WarmupQuestion | None:
    """Return a question as a row; None: the database cannot hold it."""
    request = planned.request
    if not storable(request.user_id) or len(request.alias) > 100:
        return None
    features = "" if request.features is None else msgspec.json.encode(request.features).decode()
    return WarmupQuestion(
        run=run,
        position=position,
        digest=planned.digest,
        user=str(request.user_id),
        user_is_number=isinstance(request.user_id, int),
        alias=request.alias,
        context=context_text(request.context),
        features=features,
        k=request.k + len(request.exclude),
        score=planned.score,
        reason=planned.reason.replace("\0", "")[:500],
        renew_before=planned.renew_before,
    )


def planned_of(model: str, row: WarmupQuestion) -> Planned:
    """Return a row as the question that it was."""
    request = RecommendationRequest(
        user_id=row.user_id,
        model_name=model,
        alias=row.alias,
        context=json.loads(row.context),
        features=json.loads(row.features) if row.features else None,
        k=row.k,
        priority=Priority.WARM_UP,
    )
    return Planned(request, row.digest, row.score, {}, row.renew_before)
