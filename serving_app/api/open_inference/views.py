"""The Open Inference Protocol in Django: a thin coat over `door.answer`.

A plain view and none of Django REST framework's: clients send bodies without a content type, and
every answer, errors included, has a form of its own. Cookies mean nothing here, so there is no
cross-site forgery to guard against.
"""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from serving_app import access
from serving_app.api.authentication import bearer
from serving_app.api.open_inference.answers import Answer, Refused, answer_of
from serving_app.api.open_inference.door import answer, route_of
from serving_app.conf import serving_settings
from serving_app.core.access import Access
from serving_app.core.request_record import current

__all__ = ["open_inference", "response_of"]


@csrf_exempt
def open_inference(request: HttpRequest, **_: str) -> HttpResponse:
    """Answer a request to ``/v2``, or to a path below."""

    def who() -> Access | None:
        token = bearer(
            request.META.get("HTTP_AUTHORIZATION", "").encode("utf-8", "surrogateescape")
        )
        granted = None if token is None else access.verify(token)
        if granted is not None and (record := current()) is not None:
            record.caller = granted.subject
        return granted

    if (record := current()) is not None:
        record.route = route_of(request.path_info)
    try:
        body = _body(request)
    except Refused as error:
        return response_of(answer_of(error))
    headers = {name.lower(): value for name, value in request.headers.items()}
    return response_of(answer(request.method or "", request.path_info, headers, body, who))


def _body(request: HttpRequest) -> bytes:
    """Return the body; Django's own limit is for forms."""
    limit = serving_settings().max_infer_bytes
    body: bytes = request.read(limit + 1)
    if len(body) > limit:
        raise Refused(413, f"The request body is larger than {limit} bytes.")
    return body


def response_of(given: Answer) -> HttpResponse:
    """Return an answer as Django's."""
    response = HttpResponse(given.body, status=given.status)
    del response.headers["Content-Type"]
    for name, value in given.headers.items():
        response.headers[name] = value
    return response
