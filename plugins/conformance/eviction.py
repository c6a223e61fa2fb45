"""Checks that any eviction policy must pass, whoever wrote it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from random import Random
from types import FrameType
from typing import Any, NoReturn, get_args

from plugins.contracts import EvictionPolicy, HitMode, InsertOrigin, RemoveCause

__all__ = ["check_eviction_policy"]

_BASE_SLOTS = ("key", "value", "expires", "weight", "uses", "used", "was_ghost", "keep_ghost")
_WITH_REF = {"flag", "stamp", "count"}
_GHOST = float("-inf")
_STEPS = 300
_REFUSED = 0.1
"""Share of victims that are put back, as an admission filter would."""


def check_eviction_policy(factory: Callable[[], EvictionPolicy]) -> None:
    """Run a policy through seeded random operations, and verify it after each.

    Entries are inserted, hit, overwritten, removed, expired and evicted, with capacities from 1
    up and with weights; at the end every resident must still be evictable. Takes about a second.

    Args:
        factory: Returns a new policy at each call.

    Raises:
        AssertionError: The policy broke its contract; the message says how, and after what.
    """
    for capacity in (1, 2, 7, 40):
        for weighted in (False, True):
            for seed in range(3):
                _Trial(factory(), capacity, weighted=weighted, seed=seed).run()


class _Trial:
    """A minimal host, and one sequence of operations on it."""

    def __init__(self, policy: EvictionPolicy, capacity: int, *, weighted: bool, seed: int) -> None:
        self.capacity = capacity
        self.rng = Random(seed)  # noqa: S311  (what is random here is no secret)
        self._policy = policy
        self._name = type(policy).__name__
        self._weighted = weighted
        self._random = Random(seed + 1)  # noqa: S311
        self._entries: dict[str, Any] = {}
        self._left: list[Any] = []
        self._hits: list[Any] = []
        self._now = 1000.0
        self._stamps = 0
        self._doing = "attach"
        self._where = f"capacity {capacity}, weights {weighted}, seed {seed}"
        self._check_declaration()
        slots = dict.fromkeys(_BASE_SLOTS + policy.entry_slots)
        if policy.hit_mode in _WITH_REF:
            slots["ref"] = None
        self._entry_class: Any = type("Entry", (), {"__slots__": tuple(slots)})
        self._call(policy.attach, self)

    def _check_declaration(self) -> None:
        policy = self._policy
        if policy.hit_mode not in get_args(HitMode):
            self._fail(f"declares hit_mode {policy.hit_mode!r}; there are {get_args(HitMode)}")
        if shadowed := set(policy.entry_slots) & set(_BASE_SLOTS):
            self._fail(f"declares entry_slots that L1 owns: {sorted(shadowed)}")

    def run(self) -> None:
        """Run the operations, then take everyone out."""
        steps = [self._insert] * 5 + [self._hit] * 6 + [self._remove, self._expire, self._evict]
        for number in range(_STEPS):
            self._now += self._random.random()
            step = self._random.choice(steps)
            self._doing = f"step {number}: {step.__name__.strip('_')}"
            step()
            if number % 100 == 99:
                self._call(self._policy.on_generation, "ns", number, number + 1)
            self._verify()
        while residents := self._residents():
            self._doing = f"evicting the last {len(residents)} entries"
            self._evict()
            self._verify()

    # --- The host ---

    def drop_ghost(self, entry: Any) -> None:
        """Forget a ghost."""
        known = self._entries.get(entry.key) is entry
        if not known or entry.expires != _GHOST:
            self._fail(f"drops {entry.key!r}, which is no ghost")
        del self._entries[entry.key]

    def _residents(self) -> list[Any]:
        return [entry for entry in self._entries.values() if entry.expires != _GHOST]

    def _ghosts(self) -> list[Any]:
        return [entry for entry in self._entries.values() if entry.expires == _GHOST]

    # --- Operations ---

    def _insert(self) -> None:
        key = f"k{self._random.randrange(3 * self.capacity + 2)}"
        self._doing += f" {key}"
        entry: Any = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = self._entry_class()
            entry.key, entry.was_ghost, entry.keep_ghost, entry.uses = key, False, False, 0
        elif entry.expires == _GHOST:
            entry.was_ghost = True
        else:
            self._call(self._policy.on_remove, entry, "replaced")
        if self._policy.hit_mode in _WITH_REF:
            entry.ref = self._stamp() if self._policy.hit_mode == "stamp" else 0
        entry.uses //= 2
        entry.used = self._now
        entry.value = object()
        entry.expires = self._now + self._random.choice((5.0, 50.0, 500.0))
        entry.weight = self._random.randint(1, self.capacity) if self._weighted else 1
        origin = self._random.choice([o for o in get_args(InsertOrigin) if o != "restore"])
        self._call(self._policy.on_insert, entry, self._now, origin)
        entry.was_ghost = False
        while sum(each.weight for each in self._residents()) > self.capacity:
            self._evict(newcomer=entry)

    def _hit(self) -> None:
        residents = self._residents()
        if not residents:
            return
        entry = self._random.choice(residents)
        self._doing += f" {entry.key}"
        entry.uses += 1
        entry.used = self._now
        if self._policy.hit_mode == "flag":
            entry.ref = 1
        elif self._policy.hit_mode == "stamp":
            entry.ref = self._stamp()
        elif self._policy.hit_mode == "count":
            entry.ref = min(entry.ref + 1, self._policy.count_cap)
        elif self._policy.hit_mode == "call":
            self._call(self._policy.on_hit, entry, self._now)
        elif self._policy.hit_mode == "buffer":
            self._hits.append(entry)
            if len(self._hits) >= 8:  # some of them have left meanwhile, as in L1
                batch, self._hits = self._hits, []
                self._call(self._policy.on_hits, batch, self._now)

    def _stamp(self) -> int:
        self._stamps += 1
        return self._stamps

    def _remove(self, cause: RemoveCause = "explicit") -> None:
        residents = self._residents()
        if not residents:
            return
        entry = self._random.choice(residents)
        self._doing += f" {entry.key}"
        self._call(self._policy.on_remove, entry, cause)
        self._leave(entry)

    def _expire(self) -> None:
        self._remove("expired")

    def _evict(self, newcomer: Any = None) -> None:
        if not self._residents():
            return
        victim = self._call(self._policy.evict, self._now)
        key = getattr(victim, "key", None)
        if not isinstance(victim, self._entry_class):
            self._fail(f"evicted {victim!r}, which is no entry{self._still_in()}")
        if any(victim is entry for entry in self._left):
            self._fail(f"evicted {key!r}, an entry that had left already{self._still_in()}")
        if victim.expires == _GHOST:
            self._fail(f"evicted {key!r}, which is a ghost and not resident")
        refused = newcomer is not None and self._random.random() < _REFUSED
        if refused and victim is not newcomer:
            self._call(self._policy.on_remove, newcomer, "explicit")
            self._leave(newcomer)
            victim.was_ghost, victim.keep_ghost = victim.keep_ghost, False
            self._call(self._policy.on_insert, victim, self._now, "restore")
            victim.was_ghost = False
        elif victim.keep_ghost:
            victim.keep_ghost = False
            victim.expires, victim.value, victim.uses = _GHOST, None, 0
        else:
            self._leave(victim)

    def _leave(self, entry: Any) -> None:
        del self._entries[entry.key]
        entry.expires, entry.value = _GHOST, None
        self._left.append(entry)

    # --- Verdicts ---

    def _verify(self) -> None:
        self._call(self._policy.check)
        kept = sum(ghost.weight for ghost in self._ghosts())
        if kept > self.capacity:
            self._fail(f"keeps ghosts that weighed {kept}, more than the capacity")

    def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        limit = 10_000 + 100 * len(self._entries)
        name = method.__name__
        try:
            with _LineLimit(limit):
                return method(*args)
        except _TooManyLines:
            self._fail(f"does not come back from {name}: a loop without end, or far from O(log n)")
        except AssertionError as error:
            self._fail(f"failed its own assertion in {name}: {error or 'without a message'}", error)
        except Exception as error:  # noqa: BLE001  (a plugin's, told to its author)
            message = f"raised {type(error).__name__} in {name}: {error}"
            self._fail(message + (self._still_in() if name == "evict" else ""), error)

    def _still_in(self) -> str:
        keys = [entry.key for entry in self._residents()]
        return f", while {len(keys)} were resident (lost?): {', '.join(keys[:5])}"

    def _fail(self, what: str, cause: BaseException | None = None) -> NoReturn:
        if isinstance(cause, AssertionError) and cause.args and self._where in str(cause):
            raise cause  # told already, by drop_ghost inside the policy
        raise AssertionError(f"{self._name} {what} ({self._doing}; {self._where})") from cause


class _TooManyLines(BaseException):
    """A call ran more lines than any sound policy needs. No policy can swallow it by mistake."""


class _LineLimit:
    """Ends a call on this thread that runs too many lines of Python."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        self._left -= 1
        if self._left < 0:
            raise _TooManyLines
        return self._trace
