"""``POST /predict`` and ``POST /predict/batch``."""

from __future__ import annotations

import time

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from serving_app import rates, wiring
from serving_app.api import serializers
from serving_app.api.authentication import access_of
from serving_app.api.json import LenientJSONParser
from serving_app.api.permissions import CanPredict
from serving_app.api.predictions import (
    Batch,
    batch,
    note_answer,
    note_question,
    question,
    timing_of,
)
from serving_app.conf import serving_settings
from serving_app.core.request_record import current


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
        asked = question(request.data, access_of(request), serving_settings())
        note_question(asked)
        recommendation = wiring.get_recommender().recommend(asked.request)
        note_answer(recommendation)
        body = asked.answer(recommendation, started)
        return Response(body, headers=timing_of(body))


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
        limits, access = serving_settings(), access_of(request)
        bodies, batch_id = batch(request.data, limits)
        if (record := current()) is not None:
            record.source = "batch"
        rates.check(access, "predict", len(bodies))
        asked = Batch(bodies, batch_id, access, limits)
        results = wiring.get_recommender().recommend_many(asked.requests)
        return Response(asked.answer(results, started))
