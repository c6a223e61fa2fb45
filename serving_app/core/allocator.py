"""Keeps the memory that batches use again and again, instead of giving it back each time."""

from __future__ import annotations

import ctypes
import functools
import logging

__all__ = ["keep_freed_memory"]

logger = logging.getLogger(__name__)

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 128 << 20
"""Free bytes at the end of an arena that stay with the process."""
_MAPPED = 32 << 20
"""Blocks of so many bytes are mapped, and unmapped when freed. The most that glibc allows."""


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep what is freed; return whether that could be said to it.

    On threads other than the main one, glibc soon returns free memory to the system, and a model's
    tensors of a few MiB cost a page fault for every 4 KiB of each batch: a fifth of a TorchScript
    model's time (10,000 items, batches of 128). Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    kept = mallopt(_M_MMAP_THRESHOLD, _MAPPED) and mallopt(_M_TRIM_THRESHOLD, _KEPT)
    if not kept:
        logger.info("malloc cannot be told to keep what is freed")
    return bool(kept)
