"""Heads of requests as they come over the wire, and answers as they go, for the protocol class."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from plugins import TokenNotValid
from serving_app.api.authentication import bearer
from serving_app.api.lane_http import JSON, POST_ALLOWS, encoded, is_usual
from serving_app.api.lane_replies import Reply
from serving_app.api.lane_settings import Header, LaneSettings, lane_settings
from serving_app.core.access import digest
from serving_app.core.request_record import REQUEST_ID, request_id

__all__ = ["Head", "Heads", "heads_for", "message"]

_HEADS = 1024
"""Heads remembered, by their digests: clients send the same again and again."""
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
_DIGITS = re.compile(rb"[0-9]{1,9}").fullmatch
_ID = REQUEST_ID.lower().encode()
_SCHEME = b"x-forwarded-proto"


class Head(NamedTuple):
    """What matters of a request's head that is in order."""

    length: int
    """Bytes of the body."""
    token: bytes
    """The bearer token's digest."""
    accept_encoding: bytes
    secure: bool
    """Whether the client came by HTTPS."""
    id: str | None
    """The request id that the client gave; None: it gave none."""


class Heads:
    """Reads heads, and remembers them.

    Args:
        settings: The lane's settings.
        secure: Whether the connection is encrypted.
        trusted: Whether its other end may say how the client came.
    """

    def __init__(self, settings: LaneSettings, *, secure: bool, trusted: bool) -> None:
        self.settings = settings
        self._secure = secure
        self._trusted = trusted
        self._known: dict[bytes, Head | None] = {}

    def read(self, head: bytes) -> Head | None:
        """Return what matters of a head, from its second line on; None: it is uvicorn's."""
        key = digest(head)  # it holds a token, which is kept nowhere
        try:
            return self._known[key]
        except KeyError:
            pass
        found = self._read(head)
        if found is None or found.id is None:  # an id is new each time
            if len(self._known) >= _HEADS:
                self._known.clear()
            self._known[key] = found
        return found

    def _read(self, head: bytes) -> Head | None:
        headers = []
        for line in head.split(b"\r\n"):
            name, colon, value = line.partition(b":")
            if not colon or not _NAME(name) or _CONTROL(value):
                return None  # a continued line is one of them
            headers.append((name.lower(), value.strip(b" \t")))
        by_name = dict(headers)
        length = by_name.get(b"content-length", b"")
        scheme = by_name.get(_SCHEME) if self._trusted else None
        if (
            not is_usual({"method": "POST", "headers": headers}, by_name)
            or not _DIGITS(length)
            or int(length) > self.settings.limits.max_body_bytes
            or by_name.get(b"connection", b"keep-alive").lower() != b"keep-alive"
            or b"upgrade" in by_name
            or scheme not in {None, b"http", b"https"}
            or not self.settings.is_allowed(by_name.get(b"host"))
        ):
            return None
        secure = self._secure if scheme is None else scheme == b"https"
        try:
            token = bearer(by_name[b"authorization"])
        except TokenNotValid:
            return None
        if token is None or (self.settings.redirects and not secure):
            return None
        given = by_name.get(_ID)
        id_ = None if given is None else request_id(given.decode("latin-1"))
        accepted = by_name.get(b"accept-encoding", b"")
        return Head(int(length), digest(token), accepted, secure, id_)


class _Fronts:
    """What answers begin with, up to the request's id, as bytes."""

    def __init__(self) -> None:
        self._servers: Any = None
        self._settings: LaneSettings | None = None
        self._fronts: dict[bool, bytes] = {}

    def front(
        self, servers: list[tuple[bytes, bytes]], settings: LaneSettings, *, secure: bool
    ) -> bytes:
        """Return status line and headers; the server's own come first, and change every second."""
        if servers is not self._servers or settings is not self._settings:
            self._servers, self._settings = servers, settings
            self._fronts.clear()
        front = self._fronts.get(secure)
        if front is None:
            ours = settings.headers(POST_ALLOWS, JSON, secure=secure)
            front = STATUS_LINE[200] + _lines([*servers, *ours]) + _ID + b": "
            self._fronts[secure] = front
        return front


_fronts = _Fronts()
_heads: dict[tuple[bool, bool], Heads] = {}


def heads_for(*, secure: bool, trusted: bool) -> Heads:
    """Return what reads the heads of such connections: see `Heads`."""
    settings = lane_settings()
    found = _heads.get((secure, trusted))
    if found is None or found.settings is not settings:
        found = _heads[secure, trusted] = Heads(settings, secure=secure, trusted=trusted)
    return found


def message(
    reply: Reply,
    head: Head,
    *,
    settings: LaneSettings,
    servers: list[Header],
    id_: str,
    closes: bool = False,
) -> bytes:
    """Return a whole answer as it goes over the wire.

    Args:
        reply: The answer.
        head: The request's.
        settings: The lane's settings.
        servers: The headers that the server gives every answer.
        id_: The request's id.
        closes: Whether it is the connection's last.
    """
    status, kind = reply.status, reply.kind
    content, vary, more = encoded(reply.content, head.accept_encoding)
    if status == 200:
        front = _fronts.front(servers, settings, secure=head.secure)
    else:
        ours = settings.headers(POST_ALLOWS, kind, secure=head.secure)
        front = STATUS_LINE[status] + _lines([*servers, *ours]) + _ID + b": "
    own = [(name.lower().encode(), text.encode("latin-1")) for name, text in reply.more.items()]
    last = b"connection: close\r\n" if closes else b""
    return b"%b%b\r\n%bvary: %b\r\ncontent-length: %d\r\n%b\r\n%b" % (
        *(front, id_.encode(), _lines([*own, *more]), vary),
        *(len(content), last, content),
    )


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % each for each in headers])
