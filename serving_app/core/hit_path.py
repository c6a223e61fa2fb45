"""The shortest way to an answer that is in this process's memory."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from cache_app.core.generations import Generations, own_scopes, shared_scopes
from cache_app.core.keys import KeyPrefix, digester, in_generation, tags_of
from cache_app.core.levels import Found, Levels
from cache_app.core.steps import Steps
from plugins import InvalidInput, UserId
from serving_app.core.features import FeatureLayout
from serving_app.core.live_models import LiveModels
from serving_app.core.live_version import LiveVersion
from serving_app.core.pending import Looked
from serving_app.core.request_counts import RequestCounts
from serving_app.core.segment_table import EVERYONE, SegmentPlan

__all__ = ["Hit", "HitPath", "Wanted"]

_LARGEST = tuple(struct.pack("<f", sign * float(np.finfo(np.float32).max)) for sign in (1, -1))
"""What the largest float32 looks like: a number beyond it may have been rounded to that."""


class Wanted(NamedTuple):
    """What a request asks that is otherwise in order."""

    model_name: str
    alias: str
    user_id: UserId
    context: Mapping[str, Any]
    features: Sequence[float] | Mapping[str, float] | None
    """Numbers, checked by their type, but not by their range, names or number."""
    k: int
    exclude: Collection[str]
    timeout: float | None = None
    """Seconds; what is at hand needs none."""


class Hit(NamedTuple):
    """A fresh answer at hand."""

    model_name: str
    model_version: int
    alias: str
    items: tuple[str, ...]
    scores: tuple[float, ...]
    level: str
    key: str
    segment: str


class HitPath:
    """Finds fresh answers that are at hand, in fewer steps than the recommender.

    What it finds is what `Recommender.start_at_once` would, under the same key. Where it finds
    nothing, or anything is out of the ordinary, it says None and nobody has heard of the request:
    the recommender is asked then, which also knows every error. The event loop's thread uses it.

    Args:
        live: The models that answer in this process.
        levels: The cache.
        generations: What has been invalidated.
        namespace: First part of every cache key.
        plan_of: Returns the plan of a user's segment, or None for a user in none.
        counts: Counts requests.
        moment: See `Computations.moment`.
        asked: Is told model, alias, user, context, whether features were given, and that it was a
            hit.
    """

    def __init__(
        self,
        live: LiveModels,
        levels: Levels,
        generations: Generations,
        *,
        namespace: str,
        plan_of: Callable[[UserId], SegmentPlan | None],
        counts: RequestCounts,
        moment: Callable[[], int],
        asked: Callable[[str, str, UserId, Mapping[str, Any], bool, bool], None] | None,
    ) -> None:
        self._live = live
        self._levels = levels
        self._generations = generations
        self._namespace = namespace
        self._plan_of = plan_of
        self._counts = counts
        self._moment = moment
        self._asked = asked
        self._known: WeakKeyDictionary[LiveVersion, dict[str, _Keys]] = WeakKeyDictionary()

    def find(self, wanted: Wanted) -> Hit | None:
        """Return a fresh answer that is at hand, or None; nobody hears of it."""
        keys, led, segment = self._led(wanted)
        key = None if keys is None else self._key(keys, wanted)
        found: Found | None = None if key is None else self._levels.peek(key)
        cut = None if found is None else found.value.cut(wanted.k, wanted.exclude)
        if keys is None or key is None or found is None or cut is None:
            return None
        items, scores = cut
        return Hit(keys.model_name, keys.version, led, items, scores, found.level, key, segment)

    def looking(self, wanted: Wanted) -> Steps[Hit | Looked | None]:
        """Look for a fresh answer in all levels, in steps; None: the recommender must look.

        Unlike `find`, this counts, as `Recommender.start_at_once` would.
        """
        keys, led, segment = self._led(wanted)
        key = None if keys is None else self._key(keys, wanted)
        if keys is None or key is None:
            return None
        since = self._moment()
        found = yield from self._levels.finding(key)
        cut = None
        if found is not None and not found.stale_for:
            cut = found.value.cut(wanted.k, wanted.exclude)
        if found is None or cut is None:
            return Looked(key, since, found)
        items, scores = cut
        return Hit(keys.model_name, keys.version, led, items, scores, found.level, key, segment)

    def _led(self, wanted: Wanted) -> tuple[_Keys | None, str, str]:
        """Return the keys of the version that answers, what leads to it, and the segment."""
        plan = self._plan_of(wanted.user_id)
        segment, own = (EVERYONE, "") if plan is None else (plan.terms.name, plan.terms.alias)
        version, led = self._answering(wanted, own)
        return (None if version is None else self._keys_of(version, segment)), led, segment

    def _answering(self, wanted: Wanted, own: str) -> tuple[LiveVersion | None, str]:
        """Return the version that answers, and what leads to it: a segment's own alias first."""
        if own and not wanted.alias:
            version, led = self._live.answering(wanted.model_name, wanted.user_id, own)
            if version is not None:
                return version, led
        return self._live.answering(wanted.model_name, wanted.user_id, wanted.alias)

    def _keys_of(self, version: LiveVersion, segment: str) -> _Keys:
        by_segment = self._known.get(version)
        if by_segment is None:
            by_segment = self._known[version] = {}
        keys = by_segment.get(segment)
        if keys is None:
            keys = by_segment[segment] = _Keys(version, self._namespace, segment)
        return keys

    def _key(self, keys: _Keys, wanted: Wanted) -> str | None:
        """Return the key of an answer; None: the recommender must make it."""
        features = wanted.features
        digest = "" if features is None else keys.digest(features)
        if digest is None:
            return None
        try:
            entry = keys.prefix.entry(wanted.user_id, wanted.context, digest)
            scopes = keys.scopes_of(wanted.user_id, wanted.context)
        except InvalidInput:
            return None
        generation = self._generations.of_at_once(scopes, entry)
        return None if generation is None else in_generation(entry, generation)

    def used(self, hit: Hit, wanted: Wanted, seconds: float, *, found: bool = True) -> None:
        """Count an answer that is given: the cache, the statistics and activity hear of it.

        Args:
            hit: What `find` or `looking` returned.
            wanted: What was asked.
            seconds: How long it took.
            found: Whether `find` found it, so that no level has heard of it.
        """
        if found:
            self._levels.touch(hit.key)
        self._counts.count_hit(wanted.model_name, hit.level, hit.segment, seconds)
        if self._asked is not None:
            self._asked(*wanted[:4], wanted.features is not None, True)


class _Keys:
    """How the keys of one version are made."""

    __slots__ = ("_digest", "_names", "_pack", "_shared", "model_name", "prefix", "version")

    def __init__(self, version: LiveVersion, namespace: str, segment: str) -> None:
        record = version.record
        self.model_name, self.version = record.model_name, record.version
        self.prefix = KeyPrefix(
            namespace=namespace,
            model_name=record.model_name,
            version=record.version,
            fingerprint=version.fingerprint,
            segment=segment,
        )
        self._shared = shared_scopes(record.model_name, record.version, segment)
        layout = version.layout
        self._names: tuple[str, ...] = ()  # none: the recommender reads such features
        if isinstance(layout, FeatureLayout):
            self._names = layout.names
        self._pack = struct.Struct(f"<{len(self._names)}f").pack
        self._digest = digester(np.dtype(np.float32), (len(self._names),))

    def digest(self, features: Sequence[float] | Mapping[str, float]) -> str | None:
        """Return what `digest_features` does of the features' row; None: ask the recommender."""
        names = self._names
        if len(features) != len(names) or not names:
            return None
        try:
            if isinstance(features, dict):
                features = [features[name] for name in names]
            packed = self._pack(*features)
        except (KeyError, OverflowError):
            return None
        if _LARGEST[0] in packed or _LARGEST[1] in packed:
            return None
        return self._digest(packed)

    def scopes_of(self, user_id: UserId, context: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the scopes of a request's generation."""
        scopes = self._shared + own_scopes(user_id, self.model_name)
        if context:
            scopes += tuple([f"t:{tag}" for tag in tags_of(context)])
        return scopes
