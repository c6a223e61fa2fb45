"""``python -m serving_app.host CONFIG``: the model host, as its supervisor starts it.

CONFIG is a `HostConfig` as JSON. It needs no Django, and so is back soon after a crash.
"""

from __future__ import annotations

import logging
import sys

import msgspec

from serving_app.host.process import HostConfig, run

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


if __name__ == "__main__":
    config = msgspec.json.decode(sys.argv[1], type=HostConfig)
    logging.basicConfig(level=config.log_level, format=LOG_FORMAT)
    run(config)
