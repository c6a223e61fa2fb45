"""Who may do what: what a verified token stands for, and the memory of those verified lately."""

from __future__ import annotations

import functools
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from plugins import ExplanationNotPermitted, ModelNotPermitted

__all__ = ["CHALLENGE", "ROLES", "Access", "RememberedAccess", "digest"]

CHALLENGE = 'Bearer realm="api"'
"""What ``WWW-Authenticate`` says with every 401."""
ROLES = ("predict", "operate", "administer")
"""The roles, the weakest first."""


@functools.lru_cache(maxsize=64)
def _strongest(permissions: frozenset[str]) -> str:
    return next((role for role in reversed(ROLES) if role in permissions), "")


@dataclass(frozen=True, slots=True)
class Access:
    """What one caller may do."""

    subject: str
    """Who asks, the same in every process: ``user:7`` or ``token:<prefix>``. Throttles count it."""
    permissions: frozenset[str]
    """Of `ROLES`, those the caller holds."""
    models: frozenset[str] | None = None
    """The models that it may ask; None: every one."""
    expires: float = float("inf")
    """When this ends, in Unix seconds."""
    operated: frozenset[str] | None = None
    """The models that it may see, as an operator; None: every one."""
    administered: frozenset[str] | None = None
    """The models that it may change, as an administrator; None: every one."""

    @property
    def role(self) -> str:
        """The strongest role; empty: none."""
        return _strongest(self.permissions)

    def may(self, permission: str) -> bool:
        """Return whether the caller holds a permission of `ROLES`."""
        return permission in self.permissions

    def models_for(self, permission: str) -> frozenset[str] | None:
        """Return the models for which a permission of `ROLES` holds; None: for every one."""
        if permission == "predict":
            return self.models
        return self.operated if permission == "operate" else self.administered

    def check_model(self, name: str, permission: str = "predict") -> None:
        """Return if the caller may ask a model of this name, or see or change it.

        Raises:
            ModelNotPermitted: It may not. That says nothing of whether there is one.
        """
        models = self.models if permission == "predict" else self.models_for(permission)
        if models is not None and name not in models:
            what = {"predict": "ask", "operate": "see"}.get(permission, "change")
            raise ModelNotPermitted(f"This token or user may not {what} the model {name[:100]!r}.")

    def check_every_model(self, permission: str) -> None:
        """Return if a permission holds for every model, as what concerns them all needs.

        Raises:
            ModelNotPermitted: It holds for some only.
        """
        models = self.models_for(permission)
        if models is not None:
            names = ", ".join(sorted(models)) or "none"
            raise ModelNotPermitted(
                f"This concerns every model; this token or user is limited to some ({names})."
            )

    def check_explain(self) -> None:
        """Return if the caller may ask how answers come about: that is for operators.

        Raises:
            ExplanationNotPermitted: It may not.
        """
        if "operate" not in self.permissions:
            raise ExplanationNotPermitted("explain needs the permission to operate.")


class RememberedAccess:
    """Remembers what tokens stand for until they expire or anything about access changes.

    Any thread uses it; a look-up takes no lock. Tokens are kept as digests, so that neither a dump
    of memory nor the time that a look-up takes says anything about one.

    Args:
        capacity: How many tokens are remembered; those used longest ago make room.
        trusted: Seconds after `saw` for which what is remembered counts.
        clock: Unix seconds.
        monotonic: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        capacity: int,
        trusted: float,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity = capacity
        self._trusted = trusted
        self._clock = clock
        self._monotonic = monotonic
        self._known: OrderedDict[bytes, tuple[int, Access]] = OrderedDict()
        self._lock = threading.Lock()
        self._epoch = -1
        self._seen_at = float("-inf")

    def __len__(self) -> int:
        return len(self._known)

    def saw(self, epoch: int) -> None:
        """Take note of the epoch of access that the database has now; a new one forgets all."""
        with self._lock:
            self._seen_at = self._monotonic()
            if epoch != self._epoch:
                self._epoch = epoch
                self._known.clear()

    def find(self, token: bytes, *, within: float | None = None) -> Access | None:
        """Return what a token stands for; None: unknown here, expired, or too long not looked at.

        Args:
            token: The token as it was sent.
            within: Seconds since the last look at the database; None: as built.
        """
        return self.find_digest(digest(token), within=within)

    def find_digest(self, key: bytes, *, within: float | None = None) -> Access | None:
        """Return what the token with a `digest` stands for; see `find`."""
        if self._monotonic() - self._seen_at > (self._trusted if within is None else within):
            return None
        found = self._known.get(key)
        if found is None or found[0] != self._epoch or found[1].expires <= self._clock():
            return None
        return found[1]

    def add(self, token: bytes, access: Access, *, epoch: int) -> None:
        """Remember what a token stands for, as read from the database after this epoch was."""
        key = digest(token)
        with self._lock:
            if epoch != self._epoch:
                return
            self._known[key] = (epoch, access)
            self._known.move_to_end(key)
            while len(self._known) > self._capacity:
                self._known.popitem(last=False)

    def remembered(self) -> Iterable[Access]:
        """Return all that is remembered."""
        with self._lock:
            return [access for _, access in self._known.values()]


def digest(token: bytes) -> bytes:
    """Return what a token is remembered by."""
    return hashlib.blake2b(token, digest_size=16).digest()
