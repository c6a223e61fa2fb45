"""How a process learns at once that there was an invalidation: by a file, by a bus, or by both."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from cache_app.epoch_file import EpochFile
from cache_app.redis_bus import EpochBus

__all__ = ["EpochSignals"]

_IN_DOUBT = 0.005
"""Seconds between two looks into the database while the bus is lost."""


class EpochSignals:
    """The epoch file of the host and the bus between hosts, as far as there are any.

    Args:
        file: The host's file, or None.
        bus: Makes the bus, given what to call with each epoch; or None.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        file: EpochFile | None,
        bus: Callable[[Callable[[int], None]], EpochBus] | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._heard = 0
        self._bus = None if bus is None else bus(self._hear)
        self._clock = clock

    def hint(self) -> Hashable:
        """Return what changes when there may be a new epoch. Read at each request.

        Without the bus, when there should be one, it changes every few milliseconds: who cannot
        hear must look.
        """
        here = self._heard if self._file is None else self._file.read()
        if self._bus is None:
            return here
        if self._bus.connected:
            return here, self._heard
        return here, "in doubt", int(self._clock() / _IN_DOUBT)

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Return the seconds within which this host, and others, know of an epoch.

        None: nothing tells them, and they look into the database now and then.
        """
        by_bus = None if self._bus is None else _IN_DOUBT
        return (by_bus if self._file is None else 0.0), by_bus

    def tell(self, epoch: int) -> None:
        """Let the processes of this host, and then those of others, know of an epoch."""
        if self._file is not None:
            self._file.advance(epoch)
        if self._bus is not None:
            self._bus.publish(epoch)

    def start(self) -> None:
        """Begin to listen to the bus; a process that does not, looks into the database."""
        if self._bus is not None:
            self._bus.start()

    def close(self) -> None:
        """Stop listening, and let go of the file."""
        if self._bus is not None:
            self._bus.close()
        if self._file is not None:
            self._file.close()

    def _hear(self, epoch: int) -> None:
        """Take note of an epoch from the bus; 0: one may have been missed. Runs on its thread."""
        # Any change does: the database says what it is.
        self._heard = max(self._heard + 1, epoch)
        if self._file is not None:
            self._file.advance(epoch)
