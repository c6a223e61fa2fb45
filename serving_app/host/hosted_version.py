"""A version in the model host."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from plugins import ModelNotReady
from serving_app.core.engine import LocalEngine
from serving_app.host.protocol import encode_tensors

__all__ = ["HostedVersion", "User", "packed"]


def packed(positions: NDArray[np.intp], scores: NDArray[np.floating]) -> bytes:
    """Return an answer as bytes, ready to send. Runs on a batcher's thread."""
    return encode_tensors(positions.astype(np.int32), scores)


class User(Protocol):
    """A client, as a version sees it."""

    handles: dict[int, HostedVersion]

    def send(self, data: bytes) -> None:
        """Send a frame."""


@dataclass(slots=True, eq=False)
class HostedVersion:
    """A version that some clients need; it may still be loading."""

    key: bytes
    """What was asked for: the same for every client."""
    label: str
    users: set[tuple[User, int]] = field(default_factory=set)
    """The clients that need it, each with its handle."""
    engine: LocalEngine[bytes] | None = None
    """None while it is loading."""
    seconds: float = 0.0
    """How long loading took."""
    leaving: asyncio.TimerHandle | None = None
    """Closes it, unless somebody needs it again."""

    def loaded(self) -> LocalEngine[bytes]:
        """Return its engine.

        Raises:
            ModelNotReady: It is still loading.
        """
        if self.engine is None:
            raise ModelNotReady(f"{self.label} is still loading.")
        return self.engine
