"""What a simple admission filter need not write itself."""
# ruff: noqa: B027  (what is empty here is optional)

from __future__ import annotations

from abc import ABC
from hashlib import blake2b
from typing import ClassVar

from plugins.contracts import Candidate, Entry, PolicyHost

__all__ = ["BaseAdmissionFilter", "Spotter"]


class BaseAdmissionFilter(ABC):
    """A filter that admits everything until a subclass says what not."""

    needs_size: ClassVar[bool] = False
    host: PolicyHost

    def attach(self, host: PolicyHost) -> None:
        """Remember the host."""
        self.host = host

    def admit(self, candidate: Candidate, now: float) -> bool:
        """Admit it."""
        return True

    def prefers(self, candidate: Candidate, victim: Entry, now: float) -> bool:
        """Let it take the victim's place."""
        return True

    def on_generation(self, namespace: str, old: int, new: int) -> None:
        """Age nothing."""

    def check(self) -> None:
        """Verify nothing."""


class Spotter:
    """Places keys in a sketch, by BLAKE2 under a key of the host's randomness."""

    def __init__(self, host: PolicyHost) -> None:
        self._salt = host.rng.randbytes(16)

    def __call__(self, key: str) -> int:
        """Return a key's digest of 64 bits."""
        digest = blake2b(key.encode(), digest_size=8, key=self._salt).digest()
        return int.from_bytes(digest, "little")
