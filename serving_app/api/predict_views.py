"""``POST /predict`` and ``POST /predict/batch``."""

from __future__ import annotations

import time
import uuid
from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from plugins import BadRequest, InvalidInput, Recommendation, RecommendationRequest, RecserveError
from serving_app import payload_log, rates, wiring
from serving_app.api import serializers
from serving_app.api.authentication import access_of
from serving_app.api.json import LenientJSONParser
from serving_app.api.permissions import CanPredict
from serving_app.api.problems import problem_of
from serving_app.api.translation import answer, recommendation_request, wants_titles
from serving_app.conf import serving_settings
from serving_app.core.request_record import current
from serving_app.request_log import user_hash


def _answer(recommendation: Recommendation, started: float, *, titles: bool) -> dict[str, Any]:
    body = answer(recommendation, latency=time.perf_counter() - started)
    if titles:
        body["titles"] = wiring.titles(
            recommendation.model_name, recommendation.items, recommendation.model_version
        )
    return body


class PredictView(APIView):
    """Recommends items to a user."""

    permission_classes = (CanPredict,)
    parser_classes = (LenientJSONParser,)

    @extend_schema(
        request=serializers.RecommendationRequestSerializer,
        responses={200: serializers.RecommendationSerializer},
        examples=[
            OpenApiExample(
                "By user id", value={"user_id": "17850", "k": 5, "titles": True}, request_only=True
            )
        ],
    )
    def post(self, request: Request) -> Response:
        """Return the best items for one user."""
        started = time.perf_counter()
        question = recommendation_request(request.data, serving_settings())
        titles = wants_titles(request.data)
        access_of(request).check_model(question.model_name)
        record = current()
        if record is not None:
            record.user, record.model = user_hash(question.user_id), question.model_name
        recommendation = wiring.get_recommender().recommend(question)
        if record is not None:
            record.version, record.source = recommendation.model_version, recommendation.source
        payload_log.consider(question, recommendation, time.perf_counter() - started)
        return Response(_answer(recommendation, started, titles=titles))


class PredictBatchView(APIView):
    """Recommends items to several users in one call."""

    permission_classes = (CanPredict,)
    throttle_classes = ()  # it counts for as many requests as it holds
    parser_classes = (LenientJSONParser,)

    @extend_schema(
        request=serializers.BatchRequestSerializer,
        responses={200: serializers.BatchSerializer},
    )
    def post(self, request: Request) -> Response:
        """Return an answer, or problem details, for each request, in order."""
        started = time.perf_counter()
        bodies, batch_id = _batch(request.data)
        limits, access = serving_settings(), access_of(request)
        if (record := current()) is not None:
            record.source = "batch"
        rates.check(access, "predict", len(bodies))
        slots: list[dict[str, Any] | None] = []
        questions: list[RecommendationRequest] = []
        titled: list[bool] = []
        for body in bodies:
            try:
                question, titles = recommendation_request(body, limits), wants_titles(body)
                access.check_model(question.model_name)
            except BadRequest as error:
                slots.append(problem_of(error))
            else:
                questions.append(question)
                titled.append(titles)
                slots.append(None)
        asked = iter(questions)
        results = zip(wiring.get_recommender().recommend_many(questions), titled, strict=True)
        for i, slot in enumerate(slots):
            if slot is None:
                (result, titles), question = next(results), next(asked)
                if not isinstance(result, RecserveError):
                    payload_log.consider(question, result, time.perf_counter() - started)
                slots[i] = (
                    problem_of(result)
                    if isinstance(result, RecserveError)
                    else _answer(result, started, titles=titles)
                )
        return Response(
            {
                "batch_id": batch_id,
                "results": slots,
                "batch_size": len(slots),
                "total_latency_ms": round((time.perf_counter() - started) * 1000, 3),
            }
        )


def _batch(body: Any) -> tuple[list[Any], str]:
    """Return the requests and the id of a batch.

    Raises:
        InvalidInput: The body is no batch, or too large a one.
    """
    if not isinstance(body, dict) or not isinstance(body.get("requests"), list):
        raise InvalidInput("requests must be a list of requests.", field="requests")
    unknown = sorted(body.keys() - {"requests", "batch_id"})
    if unknown:
        raise InvalidInput(
            f"Unknown field {unknown[0][:50]!r}. The fields are requests and batch_id.",
            field=unknown[0][:50],
        )
    most = serving_settings().max_requests
    if not 1 <= len(body["requests"]) <= most:
        raise InvalidInput(
            f"requests must hold 1 to {most} requests; it holds {len(body['requests'])}.",
            field="requests",
        )
    batch_id = body.get("batch_id")
    if batch_id is not None and (not isinstance(batch_id, str) or len(batch_id) > 256):
        raise InvalidInput("batch_id must be a string of at most 256 characters.", field="batch_id")
    return body["requests"], batch_id or str(uuid.uuid4())
