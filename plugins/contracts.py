"""What crosses the border between recserve and its plugins: Protocols and frozen records.

Seconds are ``float``, bytes are ``int``. Wall-clock instants are seconds since the epoch, as
``time.time()`` gives them, so that they mean the same in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from plugins.datatypes import DTYPES

__all__ = [
    "AdmissionFilter",
    "AlertChannel",
    "AlertNotice",
    "BatchTimes",
    "Candidate",
    "ElasticModel",
    "Entry",
    "EvictionPolicy",
    "Executor",
    "Explanation",
    "FeatureSource",
    "Framework",
    "HitMode",
    "HostedModel",
    "InsertOrigin",
    "LoadedModel",
    "ModelSpec",
    "PolicyHost",
    "PoolCounts",
    "Priority",
    "Recommendation",
    "RecommendationRequest",
    "RemoveCause",
    "Signature",
    "TensorSpec",
    "Tensors",
    "UserId",
]

UserId: TypeAlias = str | int
"""A user, as the client names it. ``1`` and ``"1"`` are looked up in a feature source alike."""

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
"""Arrays by tensor name; the first dimension of each is the batch."""


# --- Recommending -----------------------------------------------------------------------------


class Priority(IntEnum):
    """What goes first when not everything can: the lowest number."""

    LIVE = 0
    """Someone waits for the answer."""
    REFRESH = 1
    """A stale or soon expiring answer is renewed."""
    WARM_UP = 2
    """The answer is computed before anyone asks."""


@dataclass(frozen=True, slots=True)
class RecommendationRequest:
    """One question: which items for this user, by this model?"""

    user_id: UserId
    """The user asking."""
    model_name: str = "default"
    """The registered model that should answer."""
    alias: str = ""
    """An alias of the model, or the number of a version that has one; empty: production, or the
    canary for its share of the users."""
    features: Mapping[str, Any] | Sequence[Any] | None = None
    """Feature values by name, or in the declared order; None: ask the feature source."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """Circumstances of the request (JSON values); part of the cache key."""
    k: int = 10
    """How many items are wanted."""
    exclude: frozenset[str] = frozenset()
    """Item ids that must not be recommended."""
    timeout: float | None = None
    """Seconds until the answer is worthless; None: the model's default."""
    priority: Priority = Priority.LIVE
    """What goes first when not everything can."""
    explain: bool = False
    """Whether the answer shall say how it came about."""


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """In what batch a row was computed."""

    size: int
    """How many rows the batch had."""
    queued: float
    """Seconds that the row waited for it."""
    ran: float
    """Seconds that the model took for it."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """How an answer came about."""

    segment: str
    """The user's."""
    age: float | None = None
    """Seconds since the answer, out of the cache, was computed; None: it was computed now."""
    batch: BatchTimes | None = None
    """Where it was computed; None: it was not now, or another process did it."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer to one `RecommendationRequest`."""

    user_id: UserId
    """The user that asked."""
    items: tuple[str, ...]
    """Item ids, best first; fewer than ``k`` only when the catalogue has no more."""
    scores: tuple[float, ...]
    """The model's score of each item."""
    model_name: str
    """The model that was asked."""
    model_version: int | None
    """The version that computed the answer; None when a fallback made it."""
    source: str
    """Where the answer came from: ``model``, a cache level such as ``l1``, or ``fallback``."""
    stale_for: float = 0.0
    """Seconds since the answer, out of the cache, became stale; 0: it is fresh."""
    degraded: bool = False
    """Whether a stale answer or a fallback stands in for the model, which could not answer."""
    alias: str = ""
    """What led to the version: ``production``, ``canary``, the alias that was asked for; empty if
    its number was asked for, or a fallback answers."""
    explanation: Explanation | None = None
    """How it came about, if the request asked."""

    @property
    def cached(self) -> bool:
        """Whether the answer came out of the cache."""
        return self.source not in {"model", "fallback"}


# --- Models -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, datatype and shape of one input or output, in Open Inference Protocol terms."""

    name: str
    """The tensor's name."""
    datatype: str
    """``FP32``, ``FP64``, ``INT64``, ``BOOL``, ``BYTES``, …"""
    shape: tuple[int, ...]
    """Sizes, with -1 for a free dimension; the first is the batch."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's datatype; KeyError: the datatype is not one of `plugins.datatypes.DTYPES`."""
        return DTYPES[self.datatype]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and what it returns."""

    inputs: tuple[TensorSpec, ...]
    """The inputs, in the order in which a positional model takes them."""
    outputs: tuple[TensorSpec, ...]
    """The outputs, in the order in which a positional model returns them."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """All that is needed to load one model version, in this process or another."""

    model_name: str
    """The registered name."""
    version: int
    """The version's number."""
    framework: str
    """The framework plugin's name."""
    path: Path
    """The artifact: a file or a directory, already checked against its digest."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the framework plugin."""
    signature: Signature | None = None
    """The registered signature; None while the version is being validated."""


class LoadedModel(Protocol):
    """A model in memory. One thread at a time calls it."""

    @property
    def signature(self) -> Signature | None:
        """What the artifact itself declares; None if its format declares nothing."""

    def predict(self, inputs: Tensors) -> Tensors:
        """Return the outputs for a batch; every output has one row per input row.

        Raises whatever the framework raises; recserve turns it into `InferenceError`.
        """

    def close(self) -> None:
        """Free what the model holds. It is not called again afterwards."""


class Framework(Protocol):
    """Loads artifacts of one model format. Its keyword-only parameters are its options."""

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Return the model of ``spec.path``, ready to predict.

        The framework is imported in here, never at module level.

        Raises:
            ArtifactRejected: The file is not of this framework's format, or is damaged.
        """


class HostedModel(Protocol):
    """A model that an executor runs. As many threads as it has instances may call it."""

    @property
    def instances(self) -> int:
        """How many batches can run at once."""

    def run(self, inputs: Tensors) -> Tensors:
        """Return the outputs for a batch.

        Raises:
            InferenceError: The model raised; the cause is chained.
        """

    def close(self) -> None:
        """Wait for running batches, then free the model."""


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """The instances of a model, in one process or summed over several."""

    instances: int = 0
    """Copies of the model that are loaded."""
    busy: int = 0
    """Those that run a batch."""
    least: int = 0
    """How many are kept without any load."""
    most: int = 0
    """How many may be loaded under load."""
    grown: int = 0
    """Instances loaded because requests waited."""
    shrunk: int = 0
    """Instances freed because they were idle."""
    replaced: int = 0
    """Instances replaced because they failed again and again, or hung."""
    stuck: int = 0
    """Threads left behind in a model that hangs."""
    load_seconds: float = 0.0
    """How long the last instance took to load; of several processes, the longest."""


@runtime_checkable
class ElasticModel(Protocol):
    """A `HostedModel` whose instances come and go, if it also has all of this."""

    @property
    def instances(self) -> int:
        """How many batches can run at once, at the moment. Cheap: it is asked for each request."""

    @property
    def max_instances(self) -> int:
        """The most that `instances` will ever be."""

    @property
    def batch_seconds(self) -> float:
        """Seconds after which a running batch is given up, and `abandon` called."""

    def queued(self, seconds: float) -> None:
        """Hear how long the oldest request of a batch had waited; the batch's thread calls it."""

    def tend(self) -> None:
        """Free instances that are idle, load those that are missing; called once a second."""

    def abandon(self, thread: int) -> None:
        """Leave a thread, by its identifier, and the instance that it hangs in, behind."""

    def counts(self) -> PoolCounts:
        """Return what was counted so far."""


class Executor(Protocol):
    """Where models run: in this process, in another one, on another host."""

    def host(self, spec: ModelSpec, load: Callable[[], LoadedModel]) -> HostedModel:
        """Return the running model.

        Args:
            spec: The version to run, for executors that load it elsewhere.
            load: Loads one instance in this process, for executors that run it here.

        Raises:
            ArtifactRejected: The artifact cannot be loaded.
        """


class FeatureSource(Protocol):
    """Knows users' features. Any thread calls it, several at once.

    Set ``waits = False`` on the class if `features` asks no server and reads no slow disk: the
    event loop of the server then calls it itself, which saves each miss a change of threads.
    """

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the values that `features` returns, in their order."""

    def features(
        self, user_id: UserId, context: Mapping[str, Any]
    ) -> NDArray[np.float32] | Mapping[str, Any] | None:
        """Return the user's features, or None if it is unknown.

        Either a ``(len(feature_names),)`` float32 row, or values by name, as a request would send
        them: strings, whole numbers and lists, too, for versions that declare a feature schema.
        """

    def close(self) -> None:
        """Free what the source holds."""


# --- Alerts -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AlertNotice:
    """What a channel is told of an alert: that it fires, or that it is resolved."""

    id: str
    """The same in each try, so that a receiver can tell a repetition."""
    rule: str
    """The rule's name."""
    state: Literal["firing", "resolved"]
    severity: Literal["info", "warning", "critical"]
    summary: str
    """One sentence."""
    description: str = ""
    """What the rule means, and what to do, as its author wrote."""
    metric: str = ""
    value: float | None = None
    """The last value that was known."""
    threshold: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the rule is about: some of ``model``, ``segment`` and ``level``."""
    at: float = 0.0
    """When it fired, or was resolved."""
    started: float = 0.0
    """When the condition began to hold."""


class AlertChannel(Protocol):
    """Takes notices of alerts to where people, or programs, see them."""

    def send(self, notice: AlertNotice) -> None:
        """Send one notice; return when it has been taken.

        A thread of its own calls it, one notice at a time. Whatever it raises, the notice is sent
        again later, for a day by default: wait for nothing longer than some seconds.
        """


# --- Eviction ---------------------------------------------------------------------------------

HitMode: TypeAlias = Literal["none", "flag", "stamp", "count", "buffer", "call"]
"""How a policy hears of hits; L1 builds its look-up for it.

``none``: not at all. ``flag``: ``entry.ref = 1``. ``stamp``: ``entry.ref`` becomes the number of
this use among all uses of L1, insertions too, so that a later use has a higher number. ``count``:
``entry.ref`` grows up to ``count_cap``. ``buffer``: batches, through `EvictionPolicy.on_hits`;
some may be lost.
``call``: each, through `EvictionPolicy.on_hit`, under L1's lock.
"""

InsertOrigin: TypeAlias = Literal["miss", "warmup", "promotion", "replica", "restore"]
"""Why an entry is stored: computed for a caller, warmed, copied up from a lower level, …

``restore``: it was just chosen as a victim, but an admission filter preferred it to the newcomer.
Its slots are as `EvictionPolicy.evict` left them, and it should go where it was.
"""

RemoveCause: TypeAlias = Literal["explicit", "expired", "invalidated", "replaced"]
"""Why an entry leaves other than by eviction."""


class Entry(Protocol):
    """What L1 keeps per key. A policy adds its own slots through ``entry_slots``.

    L1 sets two of them where a policy declares them: ``ref``, see `HitMode`, and ``cost``: the
    seconds that computing the value took, or their recent mean if that is not known.

    A *ghost* is an entry without a value whose ``expires`` is ``-inf``: a policy may keep one in
    the dict to recognise a key that comes back.
    """

    key: str
    value: Any
    expires: float
    """Wall-clock instant after which the entry is no longer served; ``-inf``: a ghost."""
    weight: int
    """What the entry counts against the capacity: 1, or its size in bytes."""
    uses: int
    """Its hits, in every hit mode; halved when its value is renewed, before `on_insert`."""
    used: float
    """When it was last hit, in wall-clock seconds; if never, when it came, to a second."""
    was_ghost: bool
    """True during `on_insert` of a key that the policy remembered as a ghost."""
    keep_ghost: bool
    """Set by `evict` to keep the victim as a ghost, until the policy calls ``drop_ghost``."""


class PolicyHost(Protocol):
    """What L1 offers to the policy it owns."""

    capacity: int
    """The most that entries may weigh together."""
    rng: Random
    """The only randomness a policy may use, seeded in tests."""

    def drop_ghost(self, entry: Entry) -> None:
        """Forget a ghost. The policy has unlinked it already."""


class EvictionPolicy(Protocol):
    """Chooses victims. L1 owns the only dict; the policy's state lives in the entries' slots.

    Everything but the hit modes ``none``, ``flag``, ``stamp`` and ``count`` runs under L1's lock.
    A policy never sees a value, never hashes a key, and does each step in O(1) or O(log n).
    A simple policy is ``hit_mode = "call"`` and four methods; `BaseEvictionPolicy` in
    `plugins.eviction.base` supplies the rest.
    """

    hit_mode: ClassVar[HitMode]
    entry_slots: ClassVar[tuple[str, ...]]
    count_cap: ClassVar[int]

    def attach(self, host: PolicyHost) -> None:
        """Remember the host; called once, before anything else."""

    def on_insert(self, entry: Entry, now: float, origin: InsertOrigin) -> None:
        """Link a new entry, or a returning ghost (``entry.was_ghost``)."""

    def on_hit(self, entry: Entry, now: float) -> None:
        """Hear of one hit (``call`` only)."""

    def on_hits(self, entries: Iterable[Entry], now: float) -> None:
        """Hear of a batch of hits (``buffer`` only); may hold entries that left meanwhile."""

    def evict(self, now: float) -> Entry:
        """Choose a resident, unlink it, and return it. It may be the newcomer.

        While there are entries that were warmed and never asked for, L1 takes the oldest of them
        instead, by `on_remove`.

        Called only while at least one entry is resident. With ``entry.keep_ghost = True`` the
        policy keeps it linked as a ghost.
        """

    def on_remove(self, entry: Entry, cause: RemoveCause) -> None:
        """Unlink a resident that leaves for another reason than eviction."""

    def on_generation(self, namespace: str, old: int, new: int) -> None:
        """Age what was learned: a version has gone live, or much was invalidated.

        Most keys of old will not be asked for again.

        Args:
            namespace: The model's name, or the cache's namespace for an invalidation.
            old: The epoch before; 0 for a version that has gone live.
            new: The epoch now, or the version.
        """

    def check(self) -> None:
        """Verify every internal invariant; tests call it after each step.

        Raises:
            AssertionError: Something is linked twice, not at all, or miscounted.
        """


# --- Admission --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """What asks to be stored in L1."""

    key: str
    weight: int
    """What it would count against the capacity."""
    size: int | None
    """What the value takes encoded, in bytes; None: no filter needs it, or it is not known."""
    cost: float | None
    """Seconds that computing the value took; None: not known."""
    origin: InsertOrigin
    resident: bool
    """Whether the key is in L1 already, and only its value is new."""


class AdmissionFilter(Protocol):
    """Says what is worth a place in L1. It runs under L1's lock, at each store, never on a hit.

    Several are asked in order, and each must agree. What was warmed must not be refused for
    being unknown. `BaseAdmissionFilter` in `plugins.admission.base` admits everything.
    """

    needs_size: ClassVar[bool]

    def attach(self, host: PolicyHost) -> None:
        """Remember the host; called once, before anything else."""

    def admit(self, candidate: Candidate, now: float) -> bool:
        """Return whether the candidate may be stored at all."""

    def prefers(self, candidate: Candidate, victim: Entry, now: float) -> bool:
        """Return whether the candidate may take the place of the policy's victim."""

    def on_generation(self, namespace: str, old: int, new: int) -> None:
        """Age what was learned; see `EvictionPolicy.on_generation`."""

    def check(self) -> None:
        """Verify every internal invariant; tests call it after each step.

        Raises:
            AssertionError: Something is wrong.
        """
