"""What Django's door leaves out for programs, and that it says what it said before."""

import asyncio

import pytest
from django.http import HttpResponse
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.exceptions import NotAcceptable
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BrowsableAPIRenderer
from rest_framework.request import Request

from serving_app.api.for_browsers import (
    AuthenticationMiddleware,
    MessageMiddleware,
    SessionMiddleware,
)
from serving_app.api.json import JSONRenderer
from serving_app.api.negotiation import Negotiation

pytestmark = pytest.mark.contract("A1")

BEARER = {"HTTP_AUTHORIZATION": "Bearer x"}


def seen_through(path, *, in_loop=False, **headers):
    """Return what of a browser's a view sees."""
    seen = []

    def view(request):
        seen.extend(each for each in ("session", "user", "_messages") if hasattr(request, each))
        return HttpResponse()

    async def view_async(request):
        return view(request)

    handler = view_async if in_loop else view
    for middleware in (MessageMiddleware, AuthenticationMiddleware, SessionMiddleware):
        handler = middleware(handler)
    request = RequestFactory().post(path, **headers)
    answer = handler(request)
    if in_loop:

        async def answered():
            return await answer

        answer = asyncio.run(answered())
    assert answer.status_code == 200
    return seen


@pytest.mark.parametrize("in_loop", [False, True])
def test_a_programs_request_to_the_api_passes_by(in_loop):
    assert seen_through("/api/v1/predict", in_loop=in_loop, **BEARER) == []
    assert seen_through("/v2/models/m/infer", in_loop=in_loop, **BEARER) == []


@pytest.mark.parametrize("in_loop", [False, True])
@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/admin/", BEARER),
        ("/api/v1/predict", {}),
        ("/api/v1/predict", {"HTTP_AUTHORIZATION": "Basic x"}),
        ("/api/v1/predict", {**BEARER, "HTTP_COOKIE": "sessionid=1"}),
        ("/v2", BEARER),
    ],
)
def test_whatever_a_browser_may_have_sent_does_not(path, headers, in_loop):
    found = seen_through(path, in_loop=in_loop, **headers)
    assert found == ["session", "user", "_messages"]


RENDERERS = [JSONRenderer(), BrowsableAPIRenderer()]
ACCEPT = st.sampled_from(
    [None, "", "*/*", "application/json", "text/html", "application/*;q=0.1, text/html", "a/b"]
)


@given(
    ACCEPT,
    st.sampled_from(["", "format=json", "format=api", "format=no", "x=1"]),
    st.sampled_from([None, "json", "api"]),
    st.sampled_from([RENDERERS, RENDERERS[::-1], RENDERERS[:1]]),
)
def test_the_form_of_an_answer_is_what_django_rest_framework_says(accept, query, suffix, renderers):
    headers = {} if accept is None else {"HTTP_ACCEPT": accept}
    request = Request(RequestFactory().get(f"/api/v1/models?{query}", **headers))

    def said(by):
        try:
            return by.select_renderer(request, renderers, suffix)
        except Exception as error:  # noqa: BLE001  (it is compared)
            return type(error), getattr(error, "status_code", None)

    ours = said(Negotiation())
    assert ours == said(DefaultContentNegotiation())
    if accept == "a/b" and not query and suffix is None:
        assert ours[0] is NotAcceptable
