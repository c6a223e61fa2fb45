"""One Redis server, and what it is asked: by a thread over a pool, by an event loop over one line.

Both ways raise redis-py's errors (`cache_app.redis_connections.ERRORS`). What a question on an
event loop goes ``via`` is a `cache_app.redis_loop.LoopLines`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import redis

from cache_app.core.merged_reads import MergedReads
from cache_app.core.steps import Then
from cache_app.redis_connections import Command, execute, get_all, together

__all__ = ["Ask", "AskAll", "Elsewhere", "Link", "Read"]


class Link:
    """How one server is reached.

    Args:
        client: Its connections for threads; an event loop makes its own by the same options.
        slots: Whether keys are asked for one by one, in one go: the server is a cluster's node,
            where MGET takes the keys of one slot.
    """

    def __init__(self, client: redis.Redis, *, slots: bool = False) -> None:
        self.client = client
        self.slots = slots
        self.reads = MergedReads(functools.partial(_values if slots else get_all, client))


def _values(client: redis.Redis, keys: Sequence[bytes]) -> Sequence[Any]:
    """Return the values of keys, or the errors that came in their place."""
    return together(client, [("GET", key) for key in keys], errors_as_answers=True)


class Read:
    """Asks for a key's value, together with others that are asked for at the same time."""

    __slots__ = ("key", "link")

    def __init__(self, link: Link, key: bytes) -> None:
        self.link = link
        self.key = key

    def wait(self) -> Any:
        """Return the value."""
        answer = self.link.reads.get(self.key)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def begin(self, via: Any, then: Then) -> None:
        """Ask on an event loop."""
        via.to(self.link).read(self.key, then)


class Ask:
    """Asks one command."""

    __slots__ = ("command", "link")

    def __init__(self, link: Link, command: Command) -> None:
        self.link = link
        self.command = command

    def wait(self) -> Any:
        """Return the answer."""
        return execute(self.link.client, self.command)

    def begin(self, via: Any, then: Then) -> None:
        """Ask on an event loop."""
        via.to(self.link).ask(self.command, then)


class AskAll:
    """Asks commands in one go; the first error among the answers is raised."""

    __slots__ = ("commands", "link")

    def __init__(self, link: Link, commands: Sequence[Command]) -> None:
        self.link = link
        self.commands = commands

    def wait(self) -> list[Any]:
        """Return the answers."""
        return together(self.link.client, self.commands)

    def begin(self, via: Any, then: Then) -> None:
        """Ask on an event loop."""
        line, answers, failure = via.to(self.link), [], None

        def one(answer: Any, error: BaseException | None) -> None:
            nonlocal failure
            answers.append(answer)
            failure = failure or error
            if len(answers) == len(self.commands):
                then(answers, failure)

        for command in self.commands:
            line.ask(command, one)
        if not self.commands:
            then([], None)


class Elsewhere:
    """Calls what waits, rarely: which server it is. For an event loop, on a thread."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call

    def wait(self) -> Any:
        """Return what is returned."""
        return self.call()

    def begin(self, via: Any, then: Then) -> None:
        """Call on a thread, once for all who want the same meanwhile."""
        via.elsewhere(self.call, then)
