"""Which versions of each model answer in this process: aliases, leases, atomic changes, drain."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from plugins import ModelNotFound, ModelNotReady, UserId
from serving_app.core.live_version import LiveVersion
from serving_app.core.traffic_split import place

__all__ = ["CANARY", "PRODUCTION", "SHADOW", "Lease", "LiveModels", "Routes"]

PRODUCTION = "production"
"""The alias that answers who asks for none."""
CANARY = "canary"
"""The alias that answers a share of those in production's place, while a roll-out runs."""
SHADOW = "shadow"
"""The alias that computes a share of production's misses too, and whose answers nobody gets."""


@dataclass(frozen=True, slots=True)
class Routes:
    """What answers for one model."""

    aliases: Mapping[str, LiveVersion] = field(default_factory=dict)
    """Versions by alias; one may have several."""
    canary_share: int = 0
    """Of the users, in hundredths of a percent."""
    shadow_share: int = 0
    """Of production's computations, in hundredths of a percent."""

    @property
    def versions(self) -> list[LiveVersion]:
        """Each version once."""
        return list({id(version): version for version in self.aliases.values()}.values())

    def alias_for(self, model_name: str, user_id: UserId | None) -> str:
        """Return the alias that answers a user who asks for none."""
        if self.canary_share and user_id is not None:
            canary = self.aliases.get(CANARY)
            if (
                canary is not None
                and place(model_name, canary.record.version, user_id) < self.canary_share
            ):
                return CANARY
        return PRODUCTION

    def choose(
        self, model_name: str, user_id: UserId | None, alias: str
    ) -> tuple[LiveVersion | None, str]:
        """Return the version that answers, if any does, and the alias that led to it.

        That is empty if ``alias`` is the number of a version.
        """
        if alias.isdecimal():
            number = int(alias)
            return next((v for v in self.versions if v.record.version == number), None), ""
        led = alias or self.alias_for(model_name, user_id)
        return self.aliases.get(led), led


_NOTHING = Routes()


@dataclass(slots=True)
class _Slot:
    """A version that answers, or did, and the number of requests that hold it."""

    version: LiveVersion
    leases: int = 0
    drained: threading.Event | None = field(default=None, repr=False)
    """Made when no alias leads to the version any more; set when the last lease ends."""


class Lease:
    """The right to use a version until `release`. It keeps the version open."""

    __slots__ = ("_models", "_slot", "alias", "version")

    def __init__(self, models: LiveModels, slot: _Slot, alias: str) -> None:
        self._models = models
        self._slot = slot
        self.version = slot.version
        self.alias = alias
        """What led to the version; empty: its number did."""

    def share(self) -> Lease:
        """Return another lease on the same version; this one must not be released yet."""
        self._models._share(self._slot)  # noqa: SLF001  (a lease is part of LiveModels)
        return Lease(self._models, self._slot, self.alias)

    def release(self) -> None:
        """Give the version back. Call it exactly once, from any thread."""
        self._models._release(self._slot)  # noqa: SLF001  (a lease is part of LiveModels)


class LiveModels:
    """The live versions of each model. Any thread may lease; one thread changes the routes.

    Args:
        is_registered: Says whether a model that is not live here is registered, by its name; of
            ``name@alias`` and ``name@number``, whether it has that alias or version.
    """

    def __init__(self, is_registered: Callable[[str], bool]) -> None:
        self._is_registered = is_registered
        self._routes: dict[str, Routes] = {}
        self._slots: dict[int, _Slot] = {}
        self._lock = threading.Lock()

    def lease(self, model_name: str, user_id: UserId | None = None, alias: str = "") -> Lease:
        """Return a lease on the version that should answer.

        Args:
            model_name: The model.
            user_id: Who asks; decides between production and canary.
            alias: An alias, or the number of a version that has one; empty: production, or for
                its share of the users the canary.

        Raises:
            ModelNotFound: No such model, or no such alias or version of it, is registered.
            ModelNotReady: It is registered, but not live in this process.
        """
        lease = self.find(model_name, user_id, alias)
        if lease is None:
            raise self._missing(model_name, alias)
        return lease

    def find(self, model_name: str, user_id: UserId | None = None, alias: str = "") -> Lease | None:
        """Return the lease that `lease` does, or None if nothing is live."""
        with self._lock:
            routes = self._routes.get(model_name, _NOTHING)
            version, led = routes.choose(model_name, user_id, alias)
            if version is None:
                return None
            slot = self._slots[id(version)]
            slot.leases += 1
            return Lease(self, slot, led)

    def answering(
        self, model_name: str, user_id: UserId | None, alias: str
    ) -> tuple[LiveVersion | None, str]:
        """Return the version that `find` would lease, and what leads to it; it takes no lock.

        Without a lease the version may be closed at any moment: what it is may be read, but its
        model must not be asked. None says only that `find` must be asked.
        """
        return self._routes.get(model_name, _NOTHING).choose(model_name, user_id, alias)

    def _missing(self, model_name: str, alias: str) -> ModelNotFound | ModelNotReady:
        """Return why there is no lease."""
        label = f"{model_name}@{alias}" if alias else model_name
        if self._is_registered(label):
            return ModelNotReady(
                f"Model {label!r} has no live version in this process. Make a version live, "
                "or wait until it is loaded."
            )
        if alias and self._is_registered(model_name):
            kind = "version" if alias.isdecimal() else "alias"
            return ModelNotFound(f"Model {model_name!r} has no {kind} {alias!r}.")
        return ModelNotFound(f"No model is called {model_name!r}.")

    def route(
        self, model_name: str, routes: Routes | None
    ) -> list[tuple[threading.Event, LiveVersion]]:
        """Let these versions answer from now on; None takes the model out.

        Returns:
            The versions that no alias leads to any more, each with an event that is set once no
            request holds it. Until then the caller keeps it open. One that is routed to again
            before it is closed needs no waiting for.
        """
        with self._lock:
            old = self._routes.pop(model_name, _NOTHING)
            if routes is not None and routes.aliases:
                self._routes[model_name] = routes
            kept = set()
            for version in (routes or _NOTHING).versions:
                kept.add(id(version))
                slot = self._slots.setdefault(id(version), _Slot(version))
                slot.drained = None
            return [
                (self._retire(version), version)
                for version in old.versions
                if id(version) not in kept
            ]

    def _retire(self, version: LiveVersion) -> threading.Event:
        """Return an event that is set once nobody holds the version. The lock is held."""
        slot = self._slots[id(version)]
        slot.drained = threading.Event()
        if not slot.leases:
            del self._slots[id(version)]
            slot.drained.set()
        return slot.drained

    def swap(self, model_name: str, version: LiveVersion | None) -> threading.Event | None:
        """Let one version alone answer from now on; None takes the model out.

        Returns:
            An event that is set once no request holds the version that was in production before;
            None if there was none, or it was this one.
        """
        routes = None if version is None else Routes({PRODUCTION: version})
        before = self.routes().get(model_name, _NOTHING).aliases.get(PRODUCTION)
        retired = self.route(model_name, routes)
        return next((drained for drained, old in retired if old is before), None)

    def live(self) -> dict[str, LiveVersion]:
        """Return the version in production by model name."""
        return {
            name: routes.aliases[PRODUCTION]
            for name, routes in self.routes().items()
            if PRODUCTION in routes.aliases
        }

    def shadow(self, model_name: str) -> tuple[int, int]:
        """Return the share of a model's shadow, and its version; 0, 0 without one."""
        routes = self._routes.get(model_name, _NOTHING)
        shadow = routes.aliases.get(SHADOW)
        return (0, 0) if shadow is None else (routes.shadow_share, shadow.record.version)

    def routes(self) -> dict[str, Routes]:
        """Return what answers by model name."""
        with self._lock:
            return dict(self._routes)

    def _share(self, slot: _Slot) -> None:
        with self._lock:
            slot.leases += 1

    def _release(self, slot: _Slot) -> None:
        with self._lock:
            slot.leases -= 1
            if slot.leases == 0 and slot.drained is not None:
                # A version that was routed to again meanwhile has another slot, or this one.
                if self._slots.get(id(slot.version)) is slot:
                    del self._slots[id(slot.version)]
                slot.drained.set()
