"""Alerts by HTTP."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
import time
import urllib.error
import urllib.request
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from plugins.contracts import AlertNotice

__all__ = ["SIGNATURE", "TIMESTAMP", "WebhookChannel"]

SIGNATURE = "X-Recserve-Signature"
TIMESTAMP = "X-Recserve-Timestamp"


class _Straight(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the URL that was allowed is the one that is called."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Return None: an error."""


class WebhookChannel:
    """Posts notices as JSON to a URL, with a signature.

    The header ``X-Recserve-Signature`` is ``sha256=`` and the HMAC-SHA256, in hexadecimal digits,
    of ``X-Recserve-Timestamp`` (Unix seconds), a dot, and the body. Redirects are not followed, and
    no proxy is used.

    Args:
        url: An http or https URL.
        secret_variable: The environment variable that holds the secret; empty: no signature.
        timeout: Seconds for connecting, and for each wait for the answer.
    """

    def __init__(self, *, url: str, secret_variable: str = "", timeout: float = 5.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!r} is no http or https URL")
        if parts.username or parts.password:
            raise ValueError("a URL with a password would be shown to whoever sees the channel")
        if not 0 < timeout <= 30 or not math.isfinite(timeout):
            raise ValueError(f"a time-out is above 0 and up to 30 s, not {timeout!r}")
        self._url, self._variable, self._timeout = url, secret_variable, timeout
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Straight())

    def send(self, notice: AlertNotice) -> None:
        """Post one notice.

        Raises:
            OSError: It was not taken: no connection, no answer in time, or none of 200 to 299.
            LookupError: The environment variable of the secret is not set.
        """
        body = json.dumps(asdict(notice), sort_keys=True).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "recserve"}
        if self._variable:
            secret = os.environ.get(self._variable)
            if not secret:
                raise LookupError(f"The environment variable {self._variable} is not set.")
            headers |= self._signature(secret, body)
        request = urllib.request.Request(  # noqa: S310  (http or https: checked)
            self._url, body, headers, method="POST"
        )
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                status = answer.status
        except urllib.error.HTTPError as error:
            with error:
                status = error.code
        if not 200 <= status < 300:
            raise OSError(f"{self._host()} answered {status}.")

    def _host(self) -> str:
        return urlsplit(self._url).netloc

    @staticmethod
    def _signature(secret: str, body: bytes) -> dict[str, Any]:
        now = str(int(time.time()))
        signed = hmac.new(secret.encode(), f"{now}.".encode() + body, hashlib.sha256)
        return {TIMESTAMP: now, SIGNATURE: f"sha256={signed.hexdigest()}"}
