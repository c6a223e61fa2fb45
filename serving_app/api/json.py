"""JSON in and out: strict, fast, bounded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

import msgspec
from rest_framework import status
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.utils.encoders import JSONEncoder

from serving_app.conf import serving_settings

_lazy = JSONEncoder()


class BodyTooLarge(APIException):
    """The request's body exceeds the limit."""

    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_detail = "The request body is too large."
    default_code = "body_too_large"


class JSONParser(BaseParser):
    """Parses JSON bodies up to ``MAX_BODY_BYTES``. NaN and infinities are no JSON."""

    media_type = "application/json"

    def parse(
        self,
        stream: IO[bytes],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the body's value.

        Raises:
            ParseError: The body is not JSON.
            BodyTooLarge: It is larger than allowed.
        """
        limit = serving_settings().max_body_bytes
        body = stream.read(limit + 1)
        if len(body) > limit:
            raise BodyTooLarge(f"The request body is larger than {limit} bytes.")
        try:
            return self.decode(body)
        except (ValueError, RecursionError) as error:
            raise ParseError(f"The body is not JSON: {error}") from error

    def decode(self, body: bytes) -> Any:
        """Return the value of a body.

        Raises:
            ValueError: It is not JSON.
        """
        return msgspec.json.decode(body)


class LenientJSONParser(JSONParser):
    """Parses also the NaN and infinities that many clients write, so that they can be refused.

    JSON has no such numbers, and "not JSON" would not tell the caller which field holds one.
    Only for views that check every number they are given.
    """

    def decode(self, body: bytes) -> Any:
        """Return the value of a body.

        Raises:
            ValueError: It is no JSON, or has half a surrogate pair: no text that could be answered
                with, logged or stored.
        """
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError:
            value = json.loads(body)
            json.dumps(value, ensure_ascii=False).encode()
            return value


class JSONRenderer(BaseRenderer):
    """Renders responses as compact UTF-8 JSON."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Return the body."""
        return b"" if data is None else msgspec.json.encode(data, enc_hook=_lazy.default)
