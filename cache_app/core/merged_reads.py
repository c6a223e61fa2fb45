"""Look-ups of many threads in few round trips: what queued during the last one is the next one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from plugins.errors import LevelUnavailable

__all__ = ["MergedReads"]

_MOST = 128
"""Keys in one round trip: the answer to all of them delays each."""


class _Read:
    """A look-up that waits for its turn, or for another thread to make it."""

    __slots__ = ("answer", "failure", "key", "leads", "turn")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.answer: Any = None
        self.failure: Exception | None = None
        self.leads = False
        """Whether its thread makes the next round trip, for itself and for others."""
        self.turn = threading.Lock()
        self.turn.acquire()


class MergedReads:
    """Looks up keys: alone at once, in the company of others together. Any thread calls it.

    One round trip is under way at a time. A thread that comes meanwhile queues; when the answers
    are there, the first of the queue asks for all of it. So nobody waits for more than two round
    trips (but where more than 128 are queued), there is no thread besides the callers', and 250
    threads need one connection.

    Each answer is matched to its key by its place in one answer to one question; if there are more
    or fewer answers than keys, all fail.

    Args:
        read: Returns the values of keys, in their order. It is called by one thread at a time.
    """

    def __init__(self, read: Callable[[Sequence[bytes]], Sequence[Any]]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._queue: deque[_Read] = deque()
        self._reading = False

    def get(self, key: bytes) -> Any:
        """Return the value of a key.

        Raises:
            Exception: What ``read`` raised for this key and those that were asked for with it.
            LevelUnavailable: There were not as many answers as keys.
        """
        mine = _Read(key)
        with self._lock:
            if self._reading:
                self._queue.append(mine)
            else:
                self._reading = mine.leads = True
        if not mine.leads:
            self._wait(mine)
        if mine.leads:
            self._lead(mine)
        if mine.failure is not None:
            raise mine.failure
        return mine.answer

    def _wait(self, mine: _Read) -> None:
        try:
            mine.turn.acquire()
        except BaseException:  # a signal's: nobody may wait for who has gone
            with self._lock:
                if mine in self._queue:
                    self._queue.remove(mine)
                leads = mine.leads
            if leads:
                self._hand_on()
            raise

    def _lead(self, mine: _Read) -> None:
        """Ask for a key and for all that are queued; let the next of the queue lead."""
        with self._lock:
            others = [self._queue.popleft() for _ in range(min(len(self._queue), _MOST - 1))]
        reads = [mine, *others]
        failure: Exception = LevelUnavailable("The look-up was broken off.")
        try:
            answers = self._read([each.key for each in reads])
            if len(answers) != len(reads):
                raise LevelUnavailable(f"{len(answers)} answers to {len(reads)} look-ups")
            for each, answer in zip(reads, answers, strict=True):
                each.answer = answer
        except Exception as error:  # noqa: BLE001  (handed to all who asked)
            failure = error
            for each in reads:
                each.failure = failure
        except BaseException:  # it ends this thread; the others' look-ups have failed
            for each in others:
                each.failure = failure
            raise
        finally:
            for each in others:
                each.turn.release()
            self._hand_on()

    def _hand_on(self) -> None:
        with self._lock:
            if self._queue:
                following = self._queue.popleft()
                following.leads = True
            else:
                self._reading = False
                return
        following.turn.release()
