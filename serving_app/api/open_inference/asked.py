"""One request to ``/v2``, taken apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from plugins import ModelNotFound, ModelNotPermitted, ModelNotReady, TokenNotValid
from serving_app import rates, wiring
from serving_app.api.open_inference.answers import Refused
from serving_app.api.open_inference.compression import decompressed
from serving_app.conf import serving_settings
from serving_app.core.access import Access
from serving_app.core.live_models import PRODUCTION, Lease

__all__ = ["Asked", "models_of"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(@[A-Za-z0-9][A-Za-z0-9._-]{0,99})?\Z")


@dataclass(frozen=True)
class Asked:
    """A request, and who sends it. One thread uses it.

    Args:
        headers: By their names in lower case.
        sent: The body as it was sent.
        who: Returns what the caller may do, or None if it sent no token.
        named: The model in the path, maybe with ``@`` and an alias; empty: none.
        number: The version in the path; empty: none.
    """

    headers: Mapping[str, str]
    sent: bytes
    who: Callable[[], Access | None]
    named: str = ""
    number: str = ""

    @cached_property
    def access(self) -> Access:
        """What the caller may do.

        Raises:
            TokenNotValid: It sent no token, or none that is valid.
        """
        access = self.who()
        if access is None:
            raise TokenNotValid("Send a token: Authorization: Bearer, a blank, and the token.")
        return access

    @property
    def model(self) -> str:
        """The name of the model in the path, without its alias."""
        return self.named.partition("@")[0]

    def permit(self, role: str, *, cost: int = 1) -> Access:
        """Return what the caller may do, if it holds a role and may ask the model in the path.

        Raises:
            TokenNotValid: It sent no valid token.
            ModelNotPermitted: It may not.
            Throttled: It asks too often.
        """
        access = self.access
        if not access.may(role):
            raise ModelNotPermitted(f"This needs the role {role}.")
        if self.named:
            access.check_model(self.model)
        rates.check(access, role, cost)
        return access

    @cached_property
    def predicting(self) -> Access:
        """What a caller may do who may ask this model; it is counted once, however often asked.

        Raises:
            TokenNotValid: It sent no valid token.
            ModelNotPermitted: It may not.
            Throttled: It asks too often.
        """
        return self.permit("predict")

    def body(self) -> bytes:
        """Return the body, decompressed.

        Raises:
            Refused: It is too large, or not what its ``Content-Encoding`` says.
        """
        return decompressed(
            self.sent,
            self.headers.get("content-encoding", ""),
            limit=serving_settings().max_infer_bytes,
        )

    def json(self) -> Mapping[str, Any]:
        """Return the object in the body; an empty body is an empty one.

        Raises:
            Refused: It is no JSON object.
        """
        body = self.body()
        if not body.strip():
            return {}
        try:
            value = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise Refused(400, f"failed to parse the request JSON: {error}") from error
        if not isinstance(value, dict):
            raise Refused(400, "the request body must be a JSON object")
        return value

    def held(self) -> Lease | None:
        """Return a lease on the version that answers, if it is live here; None: ask `leased`.

        It asks no database: an event loop may call it. The version is that in the path, or what its
        alias leads to.

        Raises:
            ModelNotFound: No model can be called so.
        """
        model, _, alias = self.named.partition("@")
        if not _NAME.match(self.named) or (alias and self.number) or len(self.number) > 9:
            raise ModelNotFound(f"{self._label} is not found")
        return wiring.get_serving().live.find(model, None, alias or self.number)

    def leased(self) -> Lease:
        """Return the lease that `held` does; if there is none, the database says why.

        Raises:
            ModelNotFound: There is no such model or version.
            ModelNotReady: It is registered, and does not answer in this process.
        """
        lease = self.held()
        if lease is not None:
            return lease
        model, _, alias = self.named.partition("@")
        try:
            return wiring.get_serving().live.lease(model, None, alias or self.number)
        except ModelNotFound as error:
            raise ModelNotFound(f"{self._label} is not found") from error
        except ModelNotReady as error:
            what = "is not at ready state" if alias or self.number else "has no available versions"
            raise ModelNotReady(f"{self._label} {what}", retry_after=error.retry_after) from error

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """Hold what `leased` returns, and raise what it does."""
        lease = self.leased()
        try:
            yield lease
        finally:
            lease.release()

    @property
    def _label(self) -> str:
        version = f" version {self.number}" if self.number else ""
        return f"Request for unknown model: '{self.named}'{version}"

    def answering(self) -> list[str]:
        """Return the numbers of the model's versions that answer here, in order."""
        routes = wiring.get_serving().live.routes().get(self.model)
        numbers = {v.record.version for v in routes.versions} if routes else set()
        return [str(number) for number in sorted(numbers)]


def models_of(access: Access) -> list[str]:
    """Return the names of the models in production that the caller may ask."""
    return [
        name
        for name, routes in sorted(wiring.get_serving().live.routes().items())
        if PRODUCTION in routes.aliases and (access.models is None or name in access.models)
    ]
