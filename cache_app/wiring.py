"""Settings become objects here: lazily, after a server has forked, and once per process."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from django.db import DatabaseError

from cache_app.conf import (
    CacheSettings,
    ClusterSettings,
    EmbeddedSettings,
    RedisSettings,
    RingSettings,
    SentinelSettings,
    cache_settings,
)
from cache_app.core.breaker import Breaker, GuardedLevel
from cache_app.core.codec import Codec, CodecStats
from cache_app.core.generations import Generations
from cache_app.core.keys import in_namespace, in_segment, segment_of
from cache_app.core.lease_waits import LeaseWaits
from cache_app.core.levels import Level, Levels, LevelStats, Stored
from cache_app.core.memory import MemoryLevel
from cache_app.core.partitions import PartitionedMemory, Share
from cache_app.core.steps import Runner
from cache_app.core.tiers import TIERS
from cache_app.embedded_level import EmbeddedLevel
from cache_app.epoch_authority import EpochAuthority
from cache_app.epoch_file import EpochFile
from cache_app.epoch_signals import EpochSignals
from cache_app.l1_plugins import L1Plugins
from cache_app.models import CompressionDictionary, Epoch, Invalidation
from cache_app.redis_bus import EpochBus
from cache_app.redis_cluster import ClusterNodes
from cache_app.redis_lease import RedisLeases
from cache_app.redis_level import RedisLevel
from cache_app.redis_loop import LoopLines
from cache_app.redis_ring import RingNodes
from cache_app.redis_servers import OneServer, SentinelMaster, Servers
from plugins.apps import get_registry
from plugins.errors import LevelUnavailable, PluginError

_lock = threading.Lock()
_levels: Levels | None = None
_in_memory: PartitionedMemory | None = None
_l1_plugins: L1Plugins | None = None
_leases: LeaseWaits | None = None
_closings: list[Callable[[], None]] = []
"""What frees the levels' files and connections."""
_bytes_levels: dict[str, EmbeddedLevel | RedisLevel] = {}
"""The levels below L1, fastest first, by name."""
_dictionaries: tuple[dict[int, bytes], int] = ({}, 0)
"""What their codecs use: dictionaries by id, and the one to write with."""
_next_look = float("-inf")
_generations: Generations | None = None
_signals: EpochSignals | None = None
_value_type: Any = None
_runner = Runner()

logger = logging.getLogger(__name__)

_ENTRY_BYTES = 350
"""What L1 counts for an entry besides its encoded value. Key, entry, instants, an empty ranking and
the place in the dict take 300 to 395 bytes beyond the encoding by policy, and 585 with ``gdsf``
(tracemalloc, 5,000 entries, CPython 3.11)."""

_MOVES = 5000
"""Entries that one call of `settle_l1` moves; some 10 µs each."""

_LOOK_SECONDS = 30.0
"""Seconds between two looks for new dictionaries."""


def set_value_type(value_type: Any) -> None:
    """Say what every cached value is, for the levels that keep bytes.

    Whoever caches calls it once, before the first use (serving: in ``ServingConfig.ready``); the
    cache itself knows no type of theirs.

    Args:
        value_type: A type that msgspec can write and check, or a `cache_app.core.codec.Wire`.
    """
    global _value_type  # noqa: PLW0603  (one cache per process)
    _value_type = value_type


def get_levels() -> Levels:
    """Return this process's cache; build it on first use.

    Raises:
        ImproperlyConfigured: The settings of the cache are wrong.
        PluginError: There is no eviction policy of the name that they give, or its options are
            wrong.
    """
    global _levels  # noqa: PLW0603  (one cache per process)
    if _levels is None:
        with _lock:
            if _levels is None:
                _levels = _build()
    return _levels


def get_leases() -> LeaseWaits | None:
    """Return what lets one process of all compute a missing key; None: L2 is not one Redis."""
    get_levels()
    return _leases


def get_runner() -> Runner:
    """Return what runs steps: where an event loop is attached, on it, without waiting."""
    return _runner


def attach(loop: asyncio.AbstractEventLoop) -> None:
    """Let this event loop ask Redis itself from now on. The loop's thread calls it."""
    get_levels()
    _runner.attach(loop, LoopLines(loop))
    if _leases is not None:
        _leases.moved()


def detach() -> None:
    """Undo `attach`. The loop's thread calls it."""
    _runner.detach()
    if _leases is not None:
        _leases.moved()


def codec_stats() -> dict[str, CodecStats]:
    """Return what the codecs counted, by level; L1 has none."""
    return {name: level.codec.stats() for name, level in _bytes_levels.items()}


def refresh_dictionaries() -> None:
    """Use the dictionaries that the database has; a look at it every 30 s at most.

    Serving calls it before its first look-up, and now and then. While the database does not
    answer, those that are known stay.
    """
    if _bytes_levels and time.monotonic() >= _next_look:
        _look_for_dictionaries()


def _look_for_dictionaries() -> None:
    global _dictionaries, _next_look  # noqa: PLW0603  (one cache per process)
    _next_look = time.monotonic() + _LOOK_SECONDS
    try:
        there = CompressionDictionary.in_use(cache_settings().namespace)
    except DatabaseError as error:
        logger.warning("Compression dictionaries cannot be read: %s", error)
        return
    if there != _dictionaries:
        by_id, current = there
        try:
            for level in _bytes_levels.values():
                level.codec.use_dictionaries(by_id, current)
        except ValueError:
            logger.exception("A compression dictionary in the database cannot be used")
        _dictionaries = there


def sample_payloads(n: int, *, since: float = 0.0) -> list[bytes]:
    """Return what some entries of L2, or else L3, hold, uncompressed: to train dictionaries on.

    They are of this namespace, whoever else keeps entries there.

    Args:
        n: How many, at most.
        since: Wall-clock instant; older entries do not count.

    Raises:
        LevelUnavailable: There is no such level, or it does not answer.
        DatabaseError: The dictionaries that the entries need cannot be read.
    """
    get_levels()
    if not _bytes_levels:
        raise LevelUnavailable("There is no L2 or L3, and so no answer in compressed form.")
    level = next(iter(_bytes_levels.values()))
    namespace = cache_settings().namespace
    codec = Codec(_value_type)  # its counts are nobody's
    codec.use_dictionaries(*CompressionDictionary.in_use(namespace))
    ours = in_namespace(namespace).encode()
    sampled = level.sample(n)
    mine = [each for each in sampled if each[1].startswith(ours)]
    if len(mine) < len(sampled):  # others' entries are among them
        mine = [each for each in level.sample(4 * n) if each[1].startswith(ours)][:n]
    read = (codec.decode(envelope, text) for envelope, text in mine)
    return [codec.payload(stored) for stored in read if stored and stored.created >= since]


def get_generations() -> Generations:
    """Return what this process knows of invalidations; build it on first use."""
    global _generations, _signals  # noqa: PLW0603  (one cache per process)
    if _generations is None:
        with _lock:
            if _generations is None:
                settings = cache_settings()
                _signals = _open_signals(settings)
                _closings.append(_signals.close)
                strict = settings.coherence == "strict"
                hint = EpochAuthority(Epoch.now).hint if strict else _signals.hint
                _generations = Generations(_invalidations_after, hint=hint, waits=strict)
    return _generations


def _invalidations_after(epoch: int) -> Sequence[tuple[int, str]]:
    """Return the invalidations after an epoch; if they retire many keys, L1's policy hears of it.

    A user's, a tag's and a single key are few; a plugin's are none.
    """
    news = Invalidation.after(epoch)
    few = ("u:", "mu:", "t:", "k:", "p:")
    if epoch and any(not scope.startswith(few) for _, scope in news):
        on_generation(cache_settings().namespace, epoch, news[-1][0])
    return news


def on_generation(namespace: str, old: int, new: int) -> None:
    """Let L1's policy age what it learned; see `EvictionPolicy.on_generation`.

    Serving calls it when a version has gone live.
    """
    if _in_memory is None:
        return
    try:
        _in_memory.on_generation(namespace, old, new)
    except Exception:  # a plugin's; no request fails for it
        logger.exception("The eviction policy of L1 failed to age")


def divide_l1(shares: Mapping[str, Share]) -> None:
    """Give segments shares of L1; what is in it moves with the next calls of `settle_l1`.

    Args:
        shares: By the segments' names.

    Raises:
        PluginError: A policy cannot be made; nothing has changed.
    """
    get_levels()
    assert _in_memory is not None, "get_levels makes it"
    _in_memory.divide({in_segment(name): share for name, share in shares.items()})


def settle_l1() -> None:
    """Move some entries to where they belong since shares have changed; for a background thread."""
    if _in_memory is not None:
        _in_memory.settle(_MOVES)


def l1_partitions() -> dict[str, LevelStats]:
    """Return the counts of each share of L1 by its segment, and of ``all`` others."""
    get_levels()
    assert _in_memory is not None, "get_levels makes it"
    return {unquote(name): stats for name, stats in _in_memory.partitions().items()}


def tend_l1() -> None:
    """Let L1 do without plugins that are switched off. Called now and then, by one thread."""
    if _in_memory is not None and _l1_plugins is not None:
        try:
            _in_memory.tend(_l1_plugins.tend)
        except PluginError:  # what was on stays; it is tried again
            logger.exception("L1 cannot have another plugin")


def start() -> None:
    """Begin to hear of other hosts' invalidations, on a thread. Called once, by who serves."""
    get_generations()
    assert _signals is not None, "get_generations opens them"
    _signals.start()


def tell(epoch: int) -> None:
    """Let all processes, this one first, know of an invalidation."""
    generations = get_generations()
    generations.refresh()
    assert _signals is not None, "get_generations opens them"
    _signals.tell(epoch)


def signal_bounds() -> tuple[float | None, float | None]:
    """Return the seconds within which this host, and others, are told of an invalidation.

    None: nothing tells them, and they look into the database now and then.
    """
    get_generations()
    assert _signals is not None, "get_generations opens them"
    return _signals.bounds


def _open_signals(settings: CacheSettings) -> EpochSignals:
    file = bus = None
    if settings.epoch_file is not None:
        try:
            file = EpochFile(settings.epoch_file)
        except OSError:
            logger.exception("Invalidations of other processes are seen only now and then")
    if isinstance(settings.l2, RedisSettings):
        bus = functools.partial(_bus, settings.l2, settings.namespace)
    return EpochSignals(file, bus)


def _bus(l2: RedisSettings, namespace: str, heard: Callable[[int], None]) -> EpochBus:
    return EpochBus(l2.url, namespace, heard=heard, timeout=l2.timeout, access=l2.access.for_url())


def reset() -> None:
    """Forget the cache, so that the next use builds a new one (for tests)."""
    global _levels, _in_memory, _leases, _generations, _signals  # noqa: PLW0603  (one cache per process)
    global _l1_plugins  # noqa: PLW0603
    global _dictionaries, _next_look  # noqa: PLW0603
    with _lock:
        _bytes_levels.clear()
        _dictionaries = ({}, 0)
        _next_look = float("-inf")
        while _closings:
            _closings.pop()()
        _levels = _in_memory = _leases = _generations = _signals = _l1_plugins = None


def _build() -> Levels:
    global _in_memory, _l1_plugins  # noqa: PLW0603  (one cache per process)
    settings = cache_settings()
    _l1_plugins = l1 = L1Plugins(get_registry(), settings.l1_admission)
    below = _levels_below(settings)
    names = ["l1", *(level.name for level in below)]
    size_of = _sizer()

    def make(capacity: int, share: Share | None) -> MemoryLevel:
        policy, options = settings.l1_policy, settings.l1_options
        if share is not None and share.policy:
            policy, options = share.policy, share.options
        level = functools.partial(
            MemoryLevel,
            capacity=capacity,
            weigh=None
            if settings.l1_max_bytes is None
            else lambda value: size_of(value) + _ENTRY_BYTES,
            tiers=settings.tiers,
            keeps=[tier for tier in TIERS if "l1" in settings.tiers.held_by(tier, names)],
            size_of=size_of,
        )
        return l1.make(policy, options, level)

    _in_memory = in_memory = PartitionedMemory(
        make, capacity=settings.l1_max_bytes or settings.l1_capacity, part_of=segment_of
    )
    return Levels([in_memory, *below], tiers=settings.tiers, tier_of=in_memory.tier_of)


def _sizer() -> Callable[[Any], int]:
    """Return what says how many bytes a value takes as other levels write it, uncompressed."""
    payload = _codec().payload

    def size_of(value: Any) -> int:
        # The instants take the same bytes whatever they are.
        return len(payload(Stored(value, 0.0, 0.0)))

    return size_of


def _levels_below(settings: CacheSettings) -> list[Level]:
    """Return L2 and L3, as far as they are configured."""
    global _leases  # noqa: PLW0603  (one cache per process)
    levels: list[Level] = []
    match settings.l2:
        case EmbeddedSettings() as l2:
            embedded = EmbeddedLevel(l2.path, _codec(l2.compress_above), max_bytes=l2.max_bytes)
            _closings.append(embedded.close)
            _bytes_levels[embedded.name] = embedded
            levels.append(embedded)
        case RedisSettings() as l2:
            one, another = (
                OneServer("l2", l2.url, timeout=l2.timeout, access=l2.access.for_url())
                for _ in range(2)
            )
            breaker = Breaker()
            levels.append(_in_redis("l2", one, l2.compress_above, breaker))
            leases = RedisLeases(another, breaker)
            _leases = LeaseWaits(leases, _runner)
            _closings.extend([leases.close, _leases.close])  # called from the end
    match settings.l3:
        case SentinelSettings() as l3:
            master = SentinelMaster(
                "l3",
                l3.sentinels,
                l3.service,
                timeout=l3.timeout,
                access=l3.access.for_pool(),
                sentinel_access=l3.sentinel_access.for_client(),
            )
            levels.append(_in_redis("l3", master, l3.compress_above))
        case ClusterSettings() as l3:
            nodes = ClusterNodes("l3", l3.nodes, timeout=l3.timeout, access=l3.access.for_pool())
            levels.append(_in_redis("l3", nodes, l3.compress_above))
        case RingSettings() as l3:
            ring = RingNodes(
                "l3",
                l3.nodes,
                replicas=l3.replicas,
                timeout=l3.timeout,
                access=l3.access.for_url(),
            )
            levels.append(_in_redis("l3", ring, l3.compress_above))
    return levels


def _in_redis(
    name: str, servers: Servers, compress_above: int, breaker: Breaker | None = None
) -> Level:
    level = RedisLevel(name, servers, _codec(compress_above))
    _closings.append(level.close)
    _bytes_levels[name] = level
    return GuardedLevel(level, breaker or Breaker())


def _codec(compress_above: int = 512) -> Codec:
    if _value_type is None:
        raise RuntimeError("Call cache_app.wiring.set_value_type before the cache is used.")
    return Codec(_value_type, threshold=compress_above)
