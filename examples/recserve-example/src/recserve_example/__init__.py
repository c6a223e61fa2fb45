"""An example plugin of recserve: a policy, a framework, a warm-up strategy and a drift rule."""

from plugins import hookimpl
from recserve_example.favourite import Favourite
from recserve_example.json_linear import JsonLinear
from recserve_example.last_week import LastWeek
from recserve_example.random_policy import RandomPolicy


@hookimpl
def recserve_eviction_policies():
    return {"random": RandomPolicy}


@hookimpl
def recserve_frameworks():
    return {"json_linear": JsonLinear}


@hookimpl
def recserve_warmup_strategies():
    return {"last_week": LastWeek}


@hookimpl
def recserve_drift_rules():
    return {"favourite": Favourite}
