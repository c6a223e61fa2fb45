"""Whether a request that arrives now can be answered in time, and if not, when to come back."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Hashable

from serving_app.core.cost_model import CostModel

__all__ = ["Admission", "Appointments"]

_SLOT = 0.005
"""Seconds of a slot of the time table: those who come in one may come at once, so it is short."""
_FURTHEST = 120.0
"""Seconds after which nobody is told to come back later still."""
_OF_THE_REST = 3 / 7
"""The part of what is kept back that one may use who was told to come: 0.8 of the deadline in all,
if newcomers have 0.65."""
_UNBOUNDED = 1 << 62
_MOST_PROMISES = 131072
"""Promises remembered; those beyond are made in good faith, but not kept in mind."""


class Appointments:
    """Those who were told to come back, and when: so that no more are told so than can be served.

    A server that only says when its queue will be short tells everyone the same, and newcomers are
    there first. Here each refusal is given a place in a time table that holds no more work than the
    model can do. Who comes back is recognised by a key and preferred to newcomers; where nobody
    comes, newcomers find the place free.

    Args:
        step: Promised times are multiples of it, in seconds. HTTP's ``Retry-After`` knows whole
            seconds only.
        share: The part of the model's capacity that is promised.
        grace: Seconds after the promised time in which it still counts.
    """

    def __init__(self, *, step: float = 1.0, share: float = 0.7, grace: float = 5.0) -> None:
        self._step = step
        self._share = share
        self._grace = grace
        self._promised: OrderedDict[Hashable, float] = OrderedDict()
        self._table: dict[int, float] = {}
        self._slots_of_step = max(1, round(step / _SLOT))
        self._full_before: dict[int, int] = {}
        """For each slot within a step: the first one of its row that may have room."""
        self._swept = 0
        self._kept = 1.0
        """The part of the promises that were taken up, lately."""

    def __len__(self) -> int:
        return len(self._promised)

    def take_up(self, key: Hashable, now: float) -> bool:
        """Return whether this is someone who was told to come about now."""
        due = self._promised.get(key)
        return due is not None and due - 0.25 * self._step <= now <= due + self._grace

    def fulfil(self, key: Hashable) -> None:
        """Strike out a promise: who it was given to has been accepted."""
        if self._promised.pop(key, None) is not None:
            self._kept += 0.02 * (1 - self._kept)

    def make(self, key: Hashable | None, now: float, *, earliest: float, seconds: float) -> float:
        """Return the seconds after which to come back, and set that time aside.

        Args:
            key: Who it is, if that can be told.
            now: Monotonic instant.
            earliest: Seconds before which there is no room in any case.
            seconds: How long the model, all its instances together, needs for the work.
        """
        self._sweep(now)
        again = self._promised.pop(key, None) if key is not None else None
        cost = seconds * max(0.05, self._kept)
        room = self._share * _SLOT
        table = self._table
        here, per_step = int(now / _SLOT), self._slots_of_step
        row = here % per_step
        full_before = self._full_before.get(row, 0)
        steps = max(1, math.ceil(earliest / self._step))
        first = here + steps * per_step
        slot = max(first, full_before)
        furthest = here + _FURTHEST / _SLOT
        while slot < furthest and table.get(slot, 0.0) + min(cost, room) > room:
            slot += per_step
        if first <= full_before or steps == 1:  # all before it were looked at, now or earlier
            self._full_before[row] = slot
        table[slot] = table.get(slot, 0.0) + cost
        wait = self._step * ((slot - here) // per_step)
        if key is not None and (again is not None or len(self._promised) < _MOST_PROMISES):
            self._promised[key] = now + wait
        return wait

    def _sweep(self, now: float) -> None:
        """Forget the past, once a slot."""
        slot = int(now / _SLOT)
        if slot == self._swept:
            return
        for past in range(max(self._swept, slot - int(2 * _FURTHEST / _SLOT)), slot):
            self._table.pop(past, None)
        self._swept = slot
        # About in the order of time: whole steps after the times at which they were made.
        for key, due in list(itertools.islice(self._promised.items(), 64)):
            if due + self._grace < now:
                del self._promised[key]
                self._kept += 0.02 * (0 - self._kept)


class Admission:
    """Accepts what can be answered in time, by the fitted cost; refuses the rest at once.

    It is not locked: the batcher calls it under its own lock.

    Args:
        max_batch: What a full batch counts.
        headroom: The part of its deadline that a request may be expected to take. What is kept
            back absorbs what cannot be foreseen; 0.6 to 0.7 gave the best goodput in simulations.
        appointments: Those who were told.
    """

    def __init__(
        self,
        *,
        max_batch: int,
        headroom: float = 0.65,
        appointments: Appointments | None = None,
    ) -> None:
        self._max_batch = max_batch
        self._headroom = headroom
        self._promised = headroom + _OF_THE_REST * (1 - headroom)
        self.appointments = Appointments() if appointments is None else appointments
        self.cost = CostModel()

    def refusal(
        self,
        *,
        now: float,
        seconds: float,
        ahead: int,
        size: int,
        free_in: float,
        instances: int,
        key: Hashable | None = None,
    ) -> float | None:
        """Return None to accept a request, or the seconds after which it should come back.

        Args:
            now: Monotonic instant.
            seconds: Until its deadline.
            ahead: The size of the queued work that goes first.
            size: Its own.
            free_in: Seconds until an instance is free.
            instances: How many batches run at once.
            key: Recognises who was told to come back.
        """
        chain = self.cost.chain(ahead + size, self._max_batch)
        if chain is None:
            return None
        expected = free_in + chain / instances
        if not ahead and free_in <= 0:
            # It waits for nothing. It is also how a fit is mended that says all would be too late.
            return None
        appointments = self.appointments
        if expected <= self._headroom * seconds:
            if key is not None and len(appointments):
                appointments.fulfil(key)
            return None
        if (
            key is not None
            and expected <= self._promised * seconds
            and appointments.take_up(key, now)
        ):
            appointments.fulfil(key)
            return None
        return self.come_back(
            now=now,
            excess=expected - self._headroom * seconds,
            size=size,
            instances=instances,
            key=key,
        )

    def surely(self, seconds: float, *, busy: float, instances: int) -> int:
        """Return how much may be queued, so that any work of that size at most is accepted.

        It may be less than could be: what takes no time to say is said for a whole batch.

        Args:
            seconds: Until the works' deadlines.
            busy: The longest time until an instance is free.
            instances: How many batches run at once.
        """
        cost = self.cost
        each = cost.a + cost.b / self._max_batch
        if cost.predict(1) is None or not each:
            return _UNBOUNDED
        return int(((self._headroom * seconds - busy) * instances - cost.b) / each)

    def come_back(
        self, *, now: float, excess: float, size: int, instances: int, key: Hashable | None
    ) -> float:
        """Return when to come back, for a request that is refused.

        Args:
            now: Monotonic instant.
            excess: Seconds until there is room, if nobody else came.
            size: Of the request.
            instances: How many batches run at once.
            key: Recognises it when it comes back.
        """
        full = self.cost.predict(self._max_batch)
        each = 0.0 if full is None else full * size / self._max_batch / instances
        return self.appointments.make(key, now, earliest=excess, seconds=each)
