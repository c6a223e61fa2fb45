"""The ground floor: everything a plugin author may import.

::

    from plugins import hookimpl, EvictionPolicy, InvalidInput
"""

from __future__ import annotations

from plugins import contracts, errors
from plugins.contracts import *  # noqa: F403  (contracts.__all__ is the public list)
from plugins.errors import *  # noqa: F403  (errors.__all__ is the public list)
from plugins.hookspecs import hookimpl

__all__ = ["hookimpl", *contracts.__all__, *errors.__all__]  # noqa: PLE0604  (strings all)
