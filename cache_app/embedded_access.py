"""Access to the file of the embedded L2: opening, one writer at a time, and what damage means."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import lmdb

from cache_app.embedded_file import EmbeddedFile, boot, is_damage
from plugins.errors import LevelUnavailable

__all__ = ["REMOVE_WAIT", "EmbeddedAccess"]

_log = logging.getLogger(__name__)

_FORMAT = 1
"""Of the tables; a file of another is left for a new one."""
REMOVE_WAIT = 2.0
"""Seconds to wait for other writers with what must not be left undone."""
_RETRY = 5.0
"""Seconds after a failed opening before the next is tried: it must not cost every request."""


class EmbeddedAccess:
    """A file that the processes of this host share. Any thread uses it, several at once.

    Nothing is opened until the first use, and a forked child opens its own.

    Args:
        path: The folder of the file; made where it is missing.
        max_bytes: The most that the file takes; whole pages.
        monotonic: Seconds for time-outs.
    """

    def __init__(self, path: Path, max_bytes: int, monotonic: Callable[[], float]) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._monotonic = monotonic
        self._reported: set[str] = set()
        self._forget()
        os.register_at_fork(after_in_child=functools.partial(_let_go, weakref.ref(self)))

    def forked(self) -> None:
        """Let go of what belongs to the parent: transactions, reader slots, locks, held or not.

        The file is not closed, which would take the parent's readers from it; py-lmdb forgets it
        with the last reference. A thread of the parent that was looking something up while it
        forked left one: such a child has no L2, and says so.
        """
        if self._gate is not None:
            os.close(self._gate)
        self._forget()

    def _forget(self) -> None:
        self.file: EmbeddedFile | None = None
        """The open file; None: not opened yet, or let go of."""
        self._gate: int | None = None
        self._opening = threading.Lock()
        self._writing = threading.Lock()
        self._not_before = float("-inf")
        self._suspect: int | None = None
        """The inode of the file that failed."""

    def close(self) -> None:
        """Close the file; the next use opens it again. No other call may be under way."""
        with self._opening:
            if self.file is not None:
                self.file.env.close()
            if self._gate is not None:
                os.close(self._gate)
            self.file = self._gate = None

    @contextlib.contextmanager
    def write(self, wait: float) -> Iterator[EmbeddedFile]:
        """Be the only writer of the host.

        Raises:
            LevelUnavailable: Others write for longer than ``wait``, or the file failed.
        """
        if self.file is None:
            self.open()
        deadline = self._monotonic() + wait
        if not self._writing.acquire(timeout=wait):
            raise LevelUnavailable("L2: this process writes for too long.")
        try:
            gate = self._gate
            if gate is None:
                raise LevelUnavailable("L2 was closed.")
            self._lock(gate, deadline)
            try:
                file = self.file or self.open()
                try:
                    yield file
                except lmdb.Error as error:
                    self.fail(file, error)
            finally:
                fcntl.lockf(gate, fcntl.LOCK_UN)
        finally:
            self._writing.release()

    def _lock(self, lock: int, deadline: float) -> None:
        """Take a file lock. A record lock, as flock's would be shared with a forked child.

        Raises:
            LevelUnavailable: Another process holds it until the deadline.
        """
        while True:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._monotonic() >= deadline:
                    raise LevelUnavailable("L2: another process writes for too long.") from None
                time.sleep(0.0005)  # some transactions long
            else:
                return

    def open(self) -> EmbeddedFile:
        """Open the file, or make it.

        Raises:
            LevelUnavailable: It can be neither; the next try is 5 s away.
        """
        with self._opening:
            if self.file is not None:
                return self.file
            if self._monotonic() < self._not_before:
                raise LevelUnavailable(f"L2 at {self._path} could not be opened a moment ago.")
            try:
                self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
                if self._gate is None:
                    gate = self._path / "write.lock"
                    self._gate = os.open(gate, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                with (self._path / "open.lock").open("a") as guard:
                    # One process at a time looks and repairs.
                    self._lock(guard.fileno(), self._monotonic() + REMOVE_WAIT)
                    self.file = self._open_or_make()
            except (OSError, lmdb.Error, LevelUnavailable) as error:
                self._not_before = self._monotonic() + _RETRY
                self.report("open", f"L2 at {self._path} cannot be opened: {error}")
                raise LevelUnavailable(f"L2 at {self._path} cannot be opened: {error}") from error
            return self.file

    def _open_or_make(self) -> EmbeddedFile:
        """Return the file at the path; leave one that cannot be trusted for a new one."""
        made_by = self._path / "made_by"
        expected = f"format {_FORMAT}, {self._max_bytes} bytes, boot {boot()}\n"
        data = self._path / "data.mdb"
        if data.exists():
            if not made_by.exists() or made_by.read_text("utf-8") != expected:
                self._discard(keep=False)  # another setting, or the system was started anew
            elif data.stat().st_size != self._max_bytes or data.stat().st_ino == self._suspect:
                self._discard(keep=True)
            else:
                try:
                    return EmbeddedFile(self._path, self._max_bytes)
                except lmdb.Error as error:
                    if not is_damage(error):
                        raise
                    self._discard(keep=True)
        made_by.write_text(expected, "utf-8")
        file = EmbeddedFile(self._path, self._max_bytes)
        os.truncate(data, self._max_bytes)
        return file

    def _discard(self, *, keep: bool) -> None:
        """Move the file aside, or remove it. Whoever has it open goes on with it until it fails."""
        data = self._path / "data.mdb"
        if keep:
            aside = data.replace(self._path / "data.mdb.damaged")
            self.report("damage", f"L2 was damaged: it begins anew, and {aside} is what was there.")
        else:
            data.unlink()
        (self._path / "lock.mdb").unlink(missing_ok=True)

    def fail(self, file: EmbeddedFile, error: lmdb.Error) -> NoReturn:
        """Let go of a damaged file, so that the next use looks at it anew.

        It is not closed: another thread may be inside. It closes when the last one lets go.

        Raises:
            LevelUnavailable: Always.
        """
        if is_damage(error):
            with self._opening:
                if self.file is file:
                    self.file = None
                    self._suspect = file.number
            self.report("damage", f"L2 at {self._path} is damaged, and begins anew: {error}")
        raise LevelUnavailable(f"L2 at {self._path}: {error}") from error

    def report(self, what: str, message: str) -> None:
        """Log once of each kind: a broken file would fill the log with every request."""
        if what not in self._reported:
            self._reported.add(what)
            _log.warning(message)


def _let_go(reference: weakref.ref[EmbeddedAccess]) -> None:
    access = reference()
    if access is not None:
        access.forked()
