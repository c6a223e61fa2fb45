"""The deployment's settings with an L1 that is soon full: no cached answers grow the memory."""

from recserve_project.settings import *  # noqa: F403

RECSERVE["CACHE"] = {**RECSERVE.get("CACHE", {}), "L1": {"CAPACITY": 500}}  # noqa: F405
