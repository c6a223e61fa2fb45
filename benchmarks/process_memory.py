"""How much memory processes take together, whatever else runs on the machine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["Memory", "of_processes", "together"]


class Memory(NamedTuple):
    """What a process holds, in KiB."""

    own: int
    """Its share of what belongs to no file; what parent and child have in common counts once."""
    files: dict[str, int]
    """What it has of each mapped file, by the file and how it is mapped: code, mostly."""

    @property
    def resident(self) -> int:
        """All that it has, as if no file were shared."""
        return self.own + sum(self.files.values())


def of_processes(pids: Iterable[int]) -> list[Memory]:
    """Return the memory of each process."""
    return [of_process(Path(f"/proc/{pid}/smaps").read_text("utf-8")) for pid in pids]


def of_process(smaps: str) -> Memory:
    """Return the memory of a process, from the text of its ``smaps``."""
    own, files = 0, {}
    place, is_file = "", False
    resident = share = 0
    for line in smaps.splitlines():
        name, *values = line.split(maxsplit=5)
        if not name.endswith(":"):  # a mapping begins
            place = f"{values[4]} {values[0]}" if len(values) == 5 else ""
            is_file = place.startswith("/") and not place.startswith(("/dev/", "/memfd:"))
        elif name == "Rss:":
            resident = int(values[0])
        elif name == "Pss:":
            share = int(values[0])
        elif name == "Anonymous:":
            private = int(values[0])
            if is_file:  # pages of it that were written are the process's own
                own += private
                files[place] = files.get(place, 0) + resident - private
            else:
                own += share
    return Memory(own, files)


def together(processes: Iterable[Memory]) -> int:
    """Return what processes take together in KiB: what several have of a file counts once."""
    own, files = 0, {}
    for each in processes:
        own += each.own
        for place, size in each.files.items():
            files[place] = max(size, files.get(place, 0))
    return own + sum(files.values())
