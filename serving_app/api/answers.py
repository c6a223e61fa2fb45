"""What every JSON answer of the API gets on its way out: ETag, gzip, and headers for browsers.

Plain functions, for every door; `api_answers` is Django's middleware.

**BREACH**: an attacker who can make a browser send requests with the victim's cookies, have text of
his own in the answers, and see their sizes, can learn a secret in them if they are compressed.
Answers to requests with a cookie are therefore never compressed, nor those that hold tokens;
a bearer token is not sent by a browser on its own.
"""

from __future__ import annotations

import gzip
import hashlib
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseNotModified
from django.utils.cache import patch_vary_headers
from django.utils.decorators import sync_and_async_middleware

__all__ = ["COMPRESS_ABOVE", "accepts_gzip", "api_answers", "compress", "etag", "outgoing"]

COMPRESS_ABOVE = 1024
"""From how many bytes on an answer is compressed: less fits one packet anyhow."""
_API = ("/api/", "/v2")
_SECRET = "/api/v1/token"  # noqa: S105  (a path)


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether a client takes gzip, by its ``Accept-Encoding``."""
    found = None
    for each in accept_encoding.lower().split(","):
        coding, _, weight = each.partition(";")
        if coding.strip() in {"gzip", "x-gzip", "*"}:
            refused = weight.replace(" ", "") in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
            if coding.strip() != "*":
                return not refused
            found = not refused
    return bool(found)


def compress(body: bytes) -> bytes:
    """Return a body compressed by gzip; the same for the same body."""
    return gzip.compress(body, compresslevel=1, mtime=0)


def etag(body: bytes) -> str:
    """Return the entity tag of a body, weak: its compressed form has the same."""
    return f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


@sync_and_async_middleware
def api_answers(get_response: Any) -> Any:
    """Return Django's middleware."""
    if iscoroutinefunction(get_response):

        async def answer_async(request: HttpRequest) -> HttpResponseBase:
            return outgoing(request, await get_response(request))

        return answer_async

    def answer(request: HttpRequest) -> HttpResponseBase:
        return outgoing(request, get_response(request))

    return answer


def outgoing(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Return an answer as it is to go out; other paths' as they are."""
    if not request.path.startswith(_API) or not isinstance(response, HttpResponse):
        return response
    response.headers.setdefault("Cache-Control", "private, no-cache")
    if not response.headers.get("Content-Type", "").partition(";")[0].endswith("json"):
        return response
    response.headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'"
    if request.path.startswith(_SECRET):
        response.headers["Cache-Control"] = "no-store"
        return response
    if request.method == "GET" and response.status_code == 200:
        tag = etag(response.content)
        given = request.headers.get("If-None-Match", "")
        if tag in [each.strip() for each in given.split(",")] or given.strip() == "*":
            unchanged = HttpResponseNotModified(headers={"ETag": tag})
            unchanged.headers["Cache-Control"] = response.headers["Cache-Control"]
            return unchanged
        response.headers["ETag"] = tag
    return _compressed(request, response)


def _compressed(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    if len(response.content) < COMPRESS_ABOVE or response.has_header("Content-Encoding"):
        return response
    patch_vary_headers(response, ("Accept-Encoding", "Cookie"))
    if request.META.get("HTTP_COOKIE") or not accepts_gzip(
        request.META.get("HTTP_ACCEPT_ENCODING", "")
    ):
        return response
    response.content = compress(response.content)
    response.headers["Content-Encoding"] = "gzip"
    response.headers["Content-Length"] = str(len(response.content))
    return response
