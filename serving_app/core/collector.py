"""The garbage collector of a process that serves.

A full collection looks at every container object, those of Django and of the model frameworks
included, and holds the process meanwhile. What is there once the models are loaded stays: it is
taken out of the collector's sight.
"""

from __future__ import annotations

import gc

__all__ = ["settle", "unsettle"]

_USUAL = gc.get_threshold()
_THRESHOLDS = (3000, 20, 20)
"""Requests under way hold thousands of objects, which reference counts free; Python's own 700 would
look at them again and again."""


def settle() -> None:
    """Collect garbage once more, and let later collections look only at what comes from now on.

    What was set aside before is looked at again, so that what a version left behind goes. It holds
    the process for as long as one full collection does. Any thread calls it.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


def unsettle() -> None:
    """Let collections look at everything again, and come as often as they did."""
    gc.unfreeze()
    gc.set_threshold(*_USUAL)
