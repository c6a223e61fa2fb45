"""A future that lets go of its callbacks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["ForgetfulFuture"]

T = TypeVar("T")


class ForgetfulFuture(Future[T]):
    """A future that forgets its callbacks once they were called.

    A standard one keeps them for as long as it lives. They hold what waited for it, and that holds
    the future: a cycle, which only a full garbage collection finds. Of tens of objects for each
    answer there are soon so many that collections cost more than all else.
    """

    def _invoke_callbacks(self) -> None:
        super()._invoke_callbacks()  # type: ignore[misc]  # typeshed leaves it out
        # There is an outcome, so none comes in any more.
        self._done_callbacks: list[Callable[[Future[T]], object]] = []
