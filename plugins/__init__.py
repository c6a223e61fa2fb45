"""The ground floor: everything a plugin author may import.

::

    from plugins import hookimpl, EvictionPolicy, InvalidInput
"""

from __future__ import annotations

from plugins import contracts, drift_contracts, errors, warmup_contracts
from plugins.api_version import PLUGIN_API
from plugins.contracts import *  # noqa: F403  (contracts.__all__ is the public list)
from plugins.drift_contracts import *  # noqa: F403  (as above)
from plugins.errors import *  # noqa: F403  (errors.__all__ is the public list)
from plugins.hookspecs import hookimpl
from plugins.warmup_contracts import *  # noqa: F403  (warmup_contracts.__all__ is the public list)

__all__ = [  # noqa: PLE0604  (strings all)
    "PLUGIN_API",
    "hookimpl",
    *contracts.__all__,
    *drift_contracts.__all__,
    *errors.__all__,
    *warmup_contracts.__all__,
]
