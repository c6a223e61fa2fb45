"""What may wait for a server, as steps: a thread takes them one by one, an event loop many at once.

What asks a server is written once, as a generator. It yields questions; it is sent the answer to
each, or has the error thrown in that came instead. Who runs it decides where it waits: a thread
stands still at each question (`run`), an event loop goes on with what else there is (`Runner`).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
import weakref
from collections.abc import Callable, Generator
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar

__all__ = ["Going", "Question", "Runner", "Steps", "Then", "done", "run"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

Then: TypeAlias = Callable[[Any, BaseException | None], None]
"""Hears an answer, or the error that came instead."""


class Question(Protocol):
    """What a server is asked.

    One whose answer need not be waited for has a method ``give_up``, after which it calls no
    ``then``.
    """

    def wait(self) -> Any:
        """Return the answer; this thread waits for it.

        Raises:
            Exception: There is none.
        """

    def begin(self, via: Any, then: Then) -> None:
        """Ask on an event loop, whose thread calls it, and later ``then``, once. It raises nothing.

        Args:
            via: What `Runner.attach` was given.
            then: Hears the answer.
        """


Steps: TypeAlias = Generator[Question, Any, R]


def run(steps: Steps[R]) -> R:
    """Return what steps return; wait for each answer on this thread.

    Raises:
        Exception: What the steps raise.
    """
    try:
        question = next(steps)
        while True:
            try:
                answer = question.wait()
            except BaseException as error:  # noqa: BLE001  (the steps decide what it means)
                question = steps.throw(error)
            else:
                question = steps.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result


def done(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Steps[R]:
    """Return what a call returns that waits for nothing, as steps of which there are none."""
    return call(*args, **kwargs)
    yield  # it is a generator


class Runner:
    """Runs steps where nobody waits: on an event loop, if one is attached and its thread calls.

    Any other thread that calls waits for the answers itself. A forked child has no loop.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._via: Any = None
        itself = weakref.ref(self)

        def in_child() -> None:
            runner = itself()
            if runner is not None:
                runner._loop, runner._thread, runner._via = None, 0, None  # noqa: SLF001  (itself)

        os.register_at_fork(after_in_child=in_child)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop, if one is attached."""
        return self._loop

    @property
    def via(self) -> Any:
        """What the loop's questions are asked through; None: no loop is attached."""
        return self._via

    def attach(self, loop: asyncio.AbstractEventLoop, via: Any) -> None:
        """Run steps on this event loop from now on. The loop's thread calls it.

        Args:
            loop: The loop.
            via: What its questions are asked through; its ``close`` is called in the end.
        """
        self.detach()
        self._loop, self._thread, self._via = loop, threading.get_ident(), via

    def detach(self) -> None:
        """Undo `attach`. What is under way fails. The loop's thread calls it."""
        via, self._via = self._via, None
        self._loop, self._thread = None, 0
        if via is not None:
            via.close()

    def here(self) -> bool:
        """Return whether this thread is the event loop's."""
        return threading.get_ident() == self._thread

    def run(self, steps: Steps[R], then: Callable[[R, BaseException | None], None]) -> None:
        """Run steps, and call ``then`` with what they return, or with what they raise.

        On the event loop's thread that is now, if they ask nothing, or later, on the same thread.
        On any other it is before this returns.
        """
        if self.here():
            Going(steps, then, self._via).go_on(None, None)
            return
        try:
            result = run(steps)
        except BaseException as error:  # noqa: BLE001  (handed on)
            then(None, error)  # type: ignore[arg-type]  # there is no result
        else:
            then(result, None)


class Going:
    """Steps under way on an event loop, whose thread alone uses it. `go_on` begins them.

    Args:
        steps: The steps.
        then: Hears, once, what they return, or what they raise.
        via: What questions are asked through: see `Question.begin`.
        context: In which the steps are taken; None: in whatever context an answer comes.
    """

    __slots__ = ("_context", "_left", "_question", "_steps", "_then", "_via")

    def __init__(
        self,
        steps: Steps[Any],
        then: Then,
        via: Any,
        context: contextvars.Context | None = None,
    ) -> None:
        self._steps = steps
        self._then = then
        self._via = via
        self._context = context
        self._question: Any = None
        """What they wait for, if that can be given up."""
        self._left: BaseException | None = None

    def go_on(self, answer: Any = None, error: BaseException | None = None) -> None:
        """Take the next step, with the answer to the last question, or the error instead of it."""
        self._question = None
        try:
            if self._context is None:
                steps = self._steps
                question = steps.send(answer) if error is None else steps.throw(error)
            elif error is None:
                question = self._context.run(self._steps.send, answer)
            else:
                question = self._context.run(self._steps.throw, error)
        except StopIteration as end:
            self._then(end.value, None)
        except BaseException as failure:  # noqa: BLE001  (handed on)
            self._then(None, failure)
        else:
            if hasattr(question, "give_up"):
                if self._left is not None:
                    self.go_on(None, self._left)
                    return
                self._question = question
            question.begin(self._via, self.go_on)

    def leave(self, error: BaseException) -> None:
        """Raise an error in the steps where they wait for what can be given up, now or later."""
        self._left = error
        question = self._question
        if question is not None:
            question.give_up()
            self.go_on(None, error)
