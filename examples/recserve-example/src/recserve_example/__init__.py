"""An example plugin of recserve: an eviction policy and a model framework."""

from plugins import hookimpl
from recserve_example.json_linear import JsonLinear
from recserve_example.random_policy import RandomPolicy


@hookimpl
def recserve_eviction_policies():
    return {"random": RandomPolicy}


@hookimpl
def recserve_frameworks():
    return {"json_linear": JsonLinear}
