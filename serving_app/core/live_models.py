"""Which version of each model answers in this process: leases, atomic swap, drain."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from plugins import ModelNotFound, ModelNotReady
from serving_app.core.live_version import LiveVersion


@dataclass(slots=True)
class _Slot:
    """A live version and the number of requests that hold it."""

    version: LiveVersion
    leases: int = 0
    released: Callable[[], None] | None = field(default=None, repr=False)
    """Set when the slot is retired; called when the last lease ends."""


class Lease:
    """The right to use a version until `release`. It keeps the version open."""

    __slots__ = ("_models", "_slot", "version")

    def __init__(self, models: LiveModels, slot: _Slot) -> None:
        self._models = models
        self._slot = slot
        self.version = slot.version

    def share(self) -> Lease:
        """Return another lease on the same version; this one must not be released yet."""
        return self._models._share(self._slot)  # noqa: SLF001  (a lease is part of LiveModels)

    def release(self) -> None:
        """Give the version back. Call it exactly once, from any thread."""
        self._models._release(self._slot)  # noqa: SLF001  (a lease is part of LiveModels)


class LiveModels:
    """The live version of each model. Any thread may lease; one thread swaps.

    Args:
        is_registered: Says whether a name that is not live here is a registered model.
    """

    def __init__(self, is_registered: Callable[[str], bool]) -> None:
        self._is_registered = is_registered
        self._slots: dict[str, _Slot] = {}
        self._lock = threading.Lock()

    def lease(self, model_name: str) -> Lease:
        """Return a lease on the live version of a model.

        Raises:
            ModelNotFound: No such model is registered.
            ModelNotReady: It is registered, but not live in this process.
        """
        with self._lock:
            slot = self._slots.get(model_name)
            if slot is not None:
                slot.leases += 1
                return Lease(self, slot)
        if self._is_registered(model_name):
            raise ModelNotReady(
                f"Model {model_name!r} has no live version in this process. Make a version live, "
                "or wait until it is loaded."
            )
        raise ModelNotFound(f"No model is called {model_name!r}.")

    def swap(self, model_name: str, version: LiveVersion | None) -> threading.Event | None:
        """Let a version answer from now on; None takes the model out.

        Returns:
            An event that is set once no request holds the old version any more, after which the
            caller closes it; None if there was no old version.
        """
        with self._lock:
            old = self._slots.pop(model_name, None)
            if version is not None:
                self._slots[model_name] = _Slot(version)
            if old is None:
                return None
            drained = threading.Event()
            if old.leases:
                old.released = drained.set
            else:
                drained.set()
            return drained

    def live(self) -> dict[str, LiveVersion]:
        """Return the live version by model name."""
        with self._lock:
            return {name: slot.version for name, slot in self._slots.items()}

    def _share(self, slot: _Slot) -> Lease:
        with self._lock:
            slot.leases += 1
        return Lease(self, slot)

    def _release(self, slot: _Slot) -> None:
        with self._lock:
            slot.leases -= 1
            if slot.leases == 0 and slot.released is not None:
                slot.released()
