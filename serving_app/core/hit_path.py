"""The shortest way to an answer that is in this process's memory."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from cache_app.core.generations import Generations, own_scopes, shared_scopes
from cache_app.core.keys import KeyPrefix, digester, in_generation, tags_of
from cache_app.core.levels import Levels
from cache_app.core.steps import Steps
from plugins import InvalidInput, UserId
from serving_app.core.features import FeatureLayout
from serving_app.core.live_models import LiveModels
from serving_app.core.live_version import LiveVersion
from serving_app.core.pending import Looked
from serving_app.core.request_counts import RequestCounts
from serving_app.core.segment_table import EVERYONE, SegmentPlan

__all__ = ["Hit", "HitPath", "Place", "Wanted"]

_EXTREMES = tuple(
    struct.pack("<f", sign * extreme)
    for extreme in (float(np.finfo(np.float32).max), math.inf)
    for sign in (1, -1)
)
"""What a float32 looks like that no feature may be, or that a number out of range is rounded to."""


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


class Place(NamedTuple):
    """Where the answer to a request is, or would be."""

    version: LiveVersion
    """The version that answers; it is not leased."""
    alias: str
    """What leads to it."""
    segment: str
    key: str
    since: int
    """The moment before any level was looked into, as `Computations.moment` has it."""
    packed: bytes | None
    """The request's features as the model's row of float32; None: it gives none."""


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

    def find(self, wanted: Wanted) -> Hit | Place | None:
        """Return a fresh answer that is at hand, or where it would be; nobody hears of it.

        None: the recommender must say where it is.
        """
        plan = self._plan_of(wanted.user_id)
        segment, own = (EVERYONE, "") if plan is None else (plan.terms.name, plan.terms.alias)
        version, led = self._answering(wanted, own)
        if version is None:
            return None
        keys = self._keys_of(version, segment)
        packed = None if wanted.features is None else keys.packed(wanted.features)
        if packed is None and wanted.features is not None:
            return None
        key = self._key(keys, wanted, packed)
        if key is None:
            return None
        since = self._moment()
        found = self._levels.peek(key)
        cut = None if found is None else found.value.cut(wanted.k, wanted.exclude)
        if found is None or cut is None:
            return Place(version, led, segment, key, since, packed)
        items, scores = cut
        return Hit(keys.model_name, keys.version, led, items, scores, found.level, key, segment)

    def looking(self, wanted: Wanted, place: Place) -> Steps[Hit | Looked]:
        """Look for a fresh answer in all levels, in steps.

        Unlike `find`, this counts, as `Recommender.start_at_once` would.
        """
        found = yield from self._levels.finding(place.key)
        cut = None
        if found is not None and not found.stale_for:
            cut = found.value.cut(wanted.k, wanted.exclude)
        version, led, segment, key, since, packed = place
        if found is None or cut is None:
            row = None if packed is None else (np.frombuffer(packed, np.float32),)
            return Looked(key, since, found, version, segment, row)
        record = version.record
        items, scores = cut
        name, number = record.model_name, record.version
        return Hit(name, number, led, items, scores, found.level, key, segment)

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

    def _key(self, keys: _Keys, wanted: Wanted, packed: bytes | None) -> str | None:
        """Return the key of an answer; None: the recommender must make it."""
        digest = "" if packed is None else keys.digest(packed)
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
            hit: What `find` or `looking` has found.
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

    __slots__ = ("_names", "_pack", "_shared", "digest", "model_name", "prefix", "version")

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
        self.digest = digester(np.dtype(np.float32), (len(self._names),))
        """Returns what `digest_features` does, of a packed row."""

    def packed(self, features: Sequence[float] | Mapping[str, float]) -> bytes | None:
        """Return the features' row as bytes; None: the recommender must read them."""
        names = self._names
        if len(features) != len(names) or not names:
            return None
        try:
            if isinstance(features, dict):
                features = [features[name] for name in names]
            packed: bytes = self._pack(*features)
        except (KeyError, OverflowError):
            return None
        a, b, c, d = _EXTREMES
        if a in packed or b in packed or c in packed or d in packed:
            return None
        return packed

    def scopes_of(self, user_id: UserId, context: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the scopes of a request's generation."""
        scopes = self._shared + own_scopes(user_id, self.model_name)
        if context:
            scopes += tuple([f"t:{tag}" for tag in tags_of(context)])
        return scopes
