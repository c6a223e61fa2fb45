"""Compressed bodies of the Open Inference Protocol, both ways: gzip and deflate."""

from __future__ import annotations

import gzip
import re
import zlib

from serving_app.api.answers import COMPRESS_ABOVE, accepts_gzip
from serving_app.api.open_inference.answers import Refused

__all__ = ["compressed", "decompressed"]

_NEVER = re.compile(r"q=0(\.0*)?")
_GZIP, _ZLIB = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS


def decompressed(body: bytes, encoding: str, *, limit: int) -> bytes:
    """Return a body as it was before its ``Content-Encoding``.

    Args:
        body: As it was sent.
        encoding: ``gzip``, ``deflate`` (a zlib stream), ``identity`` or empty.
        limit: How many bytes it may have; no more are ever made.

    Raises:
        Refused: It has more, is not what the encoding says, or the encoding is another.
    """
    encoding = encoding.strip().lower()
    if encoding in {"", "identity"}:
        return body
    if encoding not in {"gzip", "x-gzip", "deflate"}:
        raise Refused(
            415,
            f"Content-Encoding {encoding[:40]!r} is not supported; gzip and deflate are.",
            **{"Accept-Encoding": "gzip, deflate"},
        )
    stream = zlib.decompressobj(_ZLIB if encoding == "deflate" else _GZIP)
    try:
        plain = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise Refused(400, f"the body is no {encoding} stream: {error}") from error
    if len(plain) > limit:
        raise Refused(413, f"The request body is larger than {limit} bytes.")
    if not stream.eof:
        raise Refused(400, f"the {encoding} stream of the body ends too early")
    if stream.unused_data:
        raise Refused(400, f"the body goes on after its {encoding} stream")
    return plain


def compressed(body: bytes, accept_encoding: str) -> tuple[bytes, str]:
    """Return a body as a client takes it, and its ``Content-Encoding``; empty: it is as it was.

    Small bodies fit one packet anyhow.
    """
    if len(body) < COMPRESS_ABOVE or not accept_encoding:
        return body, ""
    if accepts_gzip(accept_encoding):
        return gzip.compress(body, compresslevel=1, mtime=0), "gzip"
    for each in accept_encoding.lower().split(","):
        coding, _, weight = each.partition(";")
        if coding.strip() == "deflate" and not _NEVER.fullmatch(weight.replace(" ", "")):
            return zlib.compress(body, 1), "deflate"
    return body, ""
