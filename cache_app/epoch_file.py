"""Eight bytes that the processes of a host share: the latest epoch, seen without asking anyone."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from pathlib import Path

__all__ = ["EpochFile"]

_EPOCH = struct.Struct("<Q")


class EpochFile:
    """A number in a small file, mapped into memory: reading it costs what a dict look-up does.

    It is a hint: whoever sees it change reads what has happened elsewhere. Any thread, and any
    process, uses it. A file that is deleted is not noticed by those who have it open.

    Args:
        path: The file; made where it is missing, readable by its owner alone.

    Raises:
        OSError: It cannot be opened or made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._file).st_size < _EPOCH.size:
            os.truncate(self._file, _EPOCH.size)
        self._map = mmap.mmap(self._file, _EPOCH.size)

    def read(self) -> int:
        """Return the number."""
        epoch: int = _EPOCH.unpack_from(self._map)[0]
        return epoch

    def advance(self, epoch: int) -> None:
        """Raise the number to at least ``epoch``; it never falls."""
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            if epoch > self.read():
                _EPOCH.pack_into(self._map, 0, epoch)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()
        os.close(self._file)
