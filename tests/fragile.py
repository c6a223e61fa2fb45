"""A framework plugin whose models crash, hang or take their time when a row tells them to.

It is a module of its own, and not a fake: the process really dies. `install` puts it where a
process with the folder on its PYTHONPATH finds it as an installed plugin.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import time
from pathlib import Path

import numpy as np

from plugins import hookimpl

CRASH, SLOW, CRASH_LATE = 666.0, 777.0, 888.0
"""Values of the first feature."""
MARK = "FRAGILE_MARK"
"""Environment variable: a file that exists once a slow row has begun."""


class Fragile:
    """Scores items by their position and the second feature; see the module.

    Args:
        dies_at_load: Whether the process dies when the model is loaded in a model host.
    """

    def __init__(self, *, dies_at_load: bool = False) -> None:
        self._dies_at_load = dies_at_load

    def load(self, spec):
        """Return the model: any file is one."""
        if self._dies_at_load and spec.version > 0:  # 0: it is validated
            os.kill(os.getpid(), 9)
        return _Model(int(spec.path.read_text()))


class _Model:
    signature = None

    def __init__(self, items: int) -> None:
        self._items = items

    def predict(self, inputs):
        (rows,) = inputs.values()
        if (rows[:, 0] == CRASH).any():
            ctypes.string_at(0)
        if (rows[:, 0] == SLOW).any():
            mark = os.environ.get(MARK)
            if mark:
                Path(mark).touch()
            time.sleep(1.0)
        return {"scores": rows[:, 1:2] - np.arange(self._items, dtype=np.float32)}

    def close(self) -> None:
        """Hold nothing."""


@hookimpl
def recserve_frameworks():
    """Register it."""
    return {"fragile": Fragile}


def install(folder: Path) -> Path:
    """Make the folder one that holds this plugin as an installed distribution; return it."""
    info = folder / "fragile-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fragile\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[recserve]\nfragile = fragile_plugin\n")
    shutil.copy(__file__, folder / "fragile_plugin.py")
    return folder
