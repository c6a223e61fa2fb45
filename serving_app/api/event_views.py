"""``POST /events``."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from plugins import BadRequest, ModelNotFound
from serving_app.activity import record_events
from serving_app.activity_conf import activity_settings
from serving_app.api.authentication import access_of
from serving_app.api.events import event_of, listed_events
from serving_app.api.json import LenientJSONParser
from serving_app.api.permissions import CanPredict
from serving_app.api.problems import problem_of
from serving_app.api.serializers import EventsSerializer, RecordedEventsSerializer
from serving_app.core.activity import NewEvent
from serving_app.models import ServedModel


class EventsView(APIView):
    """Takes what users did."""

    permission_classes = (CanPredict,)
    parser_classes = (LenientJSONParser,)

    @extend_schema(request=EventsSerializer, responses={200: RecordedEventsSerializer})
    def post(self, request: Request) -> Response:
        """Record views, purchases and ratings. A bad one is refused by itself; the others stay.

        They are in the database when the answer comes. Whoever got none repeats the call: events
        with an `event_id` are not taken twice.
        """
        settings, access = activity_settings(), access_of(request)
        values = listed_events(request.data, settings.max_events)
        now = time.time()
        parsed: list[NewEvent | BadRequest] = []
        for value in values:
            try:
                event = event_of(value, now=now, days=settings.event_days)
                access.check_model(event.model)
            except BadRequest as error:
                parsed.append(error)
            else:
                parsed.append(event)
        registered = _registered({e.model for e in parsed if isinstance(e, NewEvent)})
        events: list[NewEvent] = []
        errors: list[dict[str, Any]] = []
        for i, each in enumerate(parsed):
            if isinstance(each, NewEvent):
                if each.model in registered:
                    events.append(each)
                    continue
                each = ModelNotFound(f"There is no model {each.model!r}.")  # noqa: PLW2901
            errors.append({"index": i, **problem_of(each)})
        done = record_events(events)
        return Response(
            {
                "recorded": done.recorded,
                "repeated": done.repeated,
                "refused": len(errors),
                "errors": errors,
            }
        )


def _registered(names: Collection[str]) -> set[str]:
    """Return those of the names that are models'."""
    if not names:
        return set()
    return set(ServedModel.objects.filter(name__in=names).values_list("name", flat=True))
