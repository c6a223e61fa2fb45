"""Which policy and which filters L1 has: those of the settings, but for what is switched off."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from cache_app.core.guards import Failed, guarded_filter
from cache_app.core.memory import MemoryLevel
from plugins.contracts import AdmissionFilter, EvictionPolicy
from plugins.registry import PluginRegistry

__all__ = ["L1Plugins"]

_STAND_INS = ("sieve", "fifo")
"""What evicts in place of a policy that is switched off: the first that is not off itself."""


@dataclass(slots=True)
class _Given:
    """What a level is to have, and what it has."""

    policy: str
    options: Mapping[str, Any]
    policy_now: str
    filters_now: frozenset[str]


class L1Plugins:
    """Gives the levels of L1 their plugins, and something in the place of those that fail.

    Args:
        registry: Where the plugins are, and where their failures are counted.
        filters: Name and options of each admission filter.
    """

    def __init__(
        self, registry: PluginRegistry, filters: Sequence[tuple[str, Mapping[str, Any]]]
    ) -> None:
        self._registry = registry
        self._filters = filters
        self._given: WeakKeyDictionary[MemoryLevel, _Given] = WeakKeyDictionary()

    def make(
        self, policy: str, options: Mapping[str, Any], level: Callable[..., MemoryLevel]
    ) -> MemoryLevel:
        """Return a new level.

        Args:
            policy: The name of its eviction policy.
            options: The policy's options.
            level: Makes it, given ``policy_factory``, ``admission`` and ``failed``.

        Raises:
            PluginError: There is no such policy or filter, or it refuses its options.
        """
        name, names = self._policy_name(policy), self._filter_names()
        given = _Given(policy, options, name, names)
        made = level(
            policy_factory=functools.partial(self._new_policy, given, name),
            admission=functools.partial(self._new_filters, names),
            failed=self._failed("eviction_policies", name),
        )
        self._given[made] = given
        return made

    def tend(self, level: MemoryLevel) -> bool:
        """Let a level do without what has been switched off, and have back what is on again.

        A policy that has failed, but not too often, is begun anew. One thread tends a level.

        Returns:
            Whether the level has another policy, and so another ``get``.

        Raises:
            PluginError: What is on again cannot be built; what the level has stays.
        """
        given = self._given[level]
        if (names := self._filter_names()) != given.filters_now:
            level.replace_filters(self._new_filters(names))
            given.filters_now = names
        name = self._policy_name(given.policy)
        if name == given.policy_now and not level.policy_failed:
            return False
        failed = self._failed("eviction_policies", name)
        level.replace_policy(self._new_policy(given, name), failed)
        given.policy_now = name
        return True

    def _new_policy(self, given: _Given, name: str) -> EvictionPolicy:
        options = given.options if name == given.policy else {}
        return self._registry.eviction_policies.create(name, options)

    def _new_filters(self, names: Collection[str]) -> list[AdmissionFilter]:
        return [
            guarded_filter(
                self._registry.admission_filters.create(name, options),
                self._failed("admission_filters", name),
            )
            for name, options in self._filters
            if name in names
        ]

    def _policy_name(self, wanted: str) -> str:
        for name in (wanted, *_STAND_INS):
            if name in self._registry.eviction_policies and not self._is_off(
                "eviction_policies", name
            ):
                return name
        return wanted

    def _filter_names(self) -> frozenset[str]:
        return frozenset(
            name for name, _ in self._filters if not self._is_off("admission_filters", name)
        )

    def _is_off(self, plural: str, name: str) -> bool:
        if name not in self._registry.of_kind(plural):
            return False  # whoever creates it, says that it is missing
        return self._registry.failures.is_off(*self._registry.part(plural, name))

    def _failed(self, plural: str, name: str) -> Failed:
        if name not in self._registry.of_kind(plural):
            return str  # who creates it, will say that it is missing
        return functools.partial(self._registry.failures.note, *self._registry.part(plural, name))
