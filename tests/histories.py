"""Histories of a cache: processes that write, invalidate and read, and a checker of what they saw.

A *source* has a number for each user, which a write raises; it is what a model would compute an
answer from. Whoever writes invalidates the user, and has done so (*acknowledged*) when that
returns. Whoever reads looks into the cache as the recommender does, under the generation of that
moment; for a miss it reads the source, takes its time, and stores. A read is *stale* if it began
after an acknowledgement, and returned a number from before that write.

Run as a program, this module is one such process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

__all__ = ["Event", "Worker", "is_enough", "prepare", "stale_reads"]

ROOT = Path(__file__).resolve().parents[1]
USERS = 4
_NUMBER = 8
"""Bytes of a user's number in the source."""


class Event(NamedTuple):
    """One operation, by CLOCK_MONOTONIC, which all processes share."""

    kind: str
    """``write`` (with its invalidation) or ``read``."""
    user: int
    number: int
    """What was written, or read."""
    began: float
    ended: float
    """When it returned; a write is acknowledged from here on."""
    source: str = ""
    """Where a read found it."""


def stale_reads(history: Iterable[Event]) -> list[tuple[Event, Event]]:
    """Return each stale read, with the latest write that had been acknowledged when it began."""
    events = list(history)
    writes: dict[int, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: event.ended):
        if event.kind == "write":
            writes[event.user].append(event)
    stale = []
    for read in events:
        if read.kind != "read":
            continue
        before = [write for write in writes[read.user] if write.ended < read.began]
        newest = max(before, key=lambda write: write.number, default=None)
        if newest is not None and read.number < newest.number:
            stale.append((read, newest))
    return stale


def is_enough(history: Iterable[Event]) -> bool:
    """Return whether one process's history has many writes, and reads from everywhere."""
    events = list(history)
    writes = sum(event.kind == "write" for event in events)
    return writes >= 40 and {event.source for event in events} >= {"l1", "l2", "source"}


def _django(given: dict[str, Any]) -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    from tests import settings as module

    module.RECSERVE = {"SERVING": module.RECSERVE["SERVING"], "CACHE": given["CACHE"]}
    module.DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": given["database"],
            "OPTIONS": {
                "timeout": 20,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;",
            },
        }
    }
    module.LOGGING["root"]["level"] = "ERROR"  # losses are on purpose
    import django

    django.setup()


def prepare(folder: Path) -> dict[str, Any]:
    """Return what all workers are given: a database, and a source in which all is 0."""
    (folder / "source").write_bytes(bytes(_NUMBER * USERS))
    given = {"database": str(folder / "db.sqlite3"), "source": str(folder / "source")}
    code = (
        "import sys, json; from tests import histories;"
        "histories._django({**json.loads(sys.argv[1]), 'CACHE': {}});"
        "from django.core.management import call_command; call_command('migrate', verbosity=0)"
    )
    subprocess.run([sys.executable, "-c", code, json.dumps(given)], cwd=ROOT, check=True)
    return given


class Worker:
    """A process that takes part; it does what it is told, one line after the other."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.histories", json.dumps(given)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> Any:
        """Return what it answers next."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the worker has died"
        return json.loads(line)

    def tell(self, what: str, *arguments: Any) -> None:
        """Give an order, to be answered later."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([what, *arguments]) + "\n")
        self._process.stdin.flush()

    def ask(self, what: str, *arguments: Any) -> Any:
        """Give an order, and return the answer."""
        self.tell(what, *arguments)
        return self.wait()

    def events(self, what: str, *arguments: Any) -> list[Event]:
        """Give an order, and return the events that it led to."""
        return [Event(*each) for each in self.ask(what, *arguments)]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class _Participant:
    """What a worker's threads do."""

    def __init__(self, source: str) -> None:
        from cache_app import wiring
        from cache_app.core.generations import scopes_of

        self._source = os.open(source, os.O_RDWR)
        self._levels = wiring.get_levels()
        self._generations = wiring.get_generations()
        self._scopes = [scopes_of(user_id=user, model_name="m", version=1) for user in range(USERS)]
        wiring.start()

    def read(self, user: int, pause: float = 0.0) -> Event:
        from serving_app.core.ranking import Ranking

        began = time.monotonic()
        key = f"history:{user}:{self._generations.of(self._scopes[user])}"
        found = self._levels.find(key)
        if found is not None:
            number, level = int(found.value.items[0]), found.level
        else:
            number, level = self._number(user), "source"
            time.sleep(pause)  # a computation, during which anything may happen
            self._levels.store(key, Ranking((str(number),), (1.0,), True), ttl=300)
        return Event("read", user, number, began, time.monotonic(), level)

    def write(self, user: int) -> Event:
        import fcntl

        from cache_app.invalidation import invalidate

        began = time.monotonic()
        fcntl.lockf(self._source, fcntl.LOCK_EX, _NUMBER, user * _NUMBER)
        number = self._number(user) + 1
        os.pwrite(self._source, number.to_bytes(_NUMBER, "little"), user * _NUMBER)
        fcntl.lockf(self._source, fcntl.LOCK_UN, _NUMBER, user * _NUMBER)
        invalidate(user_id=user)
        return Event("write", user, number, began, time.monotonic())

    def _number(self, user: int) -> int:
        return int.from_bytes(os.pread(self._source, _NUMBER, user * _NUMBER), "little")

    def run(self, seed: str, threads: int, writes: float, end: str) -> list[Event]:
        """Let threads read and write at random until there is a file; return what they did.

        They go on, for a minute at most, until that is enough to be worth checking.
        """
        events: list[Event] = []
        latest = time.monotonic() + 60

        def over() -> bool:
            if not os.path.exists(end):  # noqa: PTH110  (it is asked at each operation)
                return False
            return is_enough(list(events)) or time.monotonic() > latest

        writing = threading.Lock()  # the source's lock is this process's, not a thread's

        def work(number: int) -> None:
            from django.db import connection

            rng = Random(f"{seed}-{number}")
            while not over():
                user = rng.randrange(USERS)
                if rng.random() < writes:
                    with writing:
                        event = self.write(user)
                else:
                    event = self.read(user, rng.random() * 0.003)
                events.append(event)
                time.sleep(rng.random() * 0.004)
            connection.close()

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return events


def _main(given: dict[str, Any]) -> None:
    _django(given)
    participant = _Participant(given["source"])
    _say("ready")
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        if what == "connected":
            from cache_app import wiring

            assert wiring._signals is not None
            assert wiring._signals._bus is not None
            answer: Any = wiring._signals._bus.connected
        elif what == "run":
            answer = participant.run(*arguments)
        else:
            answer = [getattr(participant, what)(*arguments)]
        _say(answer)


def _say(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
