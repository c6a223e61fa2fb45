"""An example plugin of recserve: an eviction policy, a framework and a warm-up strategy."""

from plugins import hookimpl
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
