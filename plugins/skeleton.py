"""The files of a new plugin: a project that installs, works and passes its own tests.

Each kind has one template, ``skeletons/KIND.txt``. A line ``=== PATH`` begins a file, and
``=== next`` what its README says of the next steps. What all kinds share is in ``project.txt``.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from string import Template

from plugins import hookspecs
from plugins.api_version import PLUGIN_API
from plugins.registry import KINDS

__all__ = ["hooks", "kinds", "render", "write"]

_TEMPLATES = Path(__file__).with_name("skeletons")
_HEADING = re.compile(r"^=== (.+)\n", re.MULTILINE)


def hooks() -> dict[str, str]:
    """Return every hook by the kind that it stands for, as one writes it in a command."""
    registering = {kind.hook: kind.name.replace("-", "").replace(" ", "_") for kind in KINDS}
    names = (name for name in vars(hookspecs) if name.startswith(f"{hookspecs.PROJECT}_"))
    return {
        registering.get(name, name.removeprefix(f"{hookspecs.PROJECT}_")): name for name in names
    }


def kinds() -> tuple[str, ...]:
    """Return the kinds of plugin that there is a template for."""
    return tuple(kind for kind in hooks() if _path(kind).is_file())


def render(kind: str, plugin: str) -> dict[str, str]:
    """Return the files of a plugin's project: path → content.

    Args:
        kind: One of `kinds`.
        plugin: The plugin's name, and that of what it provides; `plugins.registry.check_name`
            has found it good.
    """
    hook = hooks()[kind]
    plural = next((each.plural for each in KINDS if each.hook == hook), None)
    words = {
        "plugin": plugin,
        "package": f"recserve_{plugin}",
        "distribution": f"recserve-{plugin.replace('_', '-')}",
        "Class": "".join(part.capitalize() for part in plugin.split("_")),
        "kind": next((each.name for each in KINDS if each.hook == hook), kind.replace("_", " ")),
        "api": str(PLUGIN_API),
        "provides": "{}" if plural is None else f'{{"{plural}": ("{plugin}",)}}',
    }
    own = _sections(_path(kind), words)
    words["next"] = own.pop("next").strip()
    return _sections(_path("project"), words) | own


def write(files: Mapping[str, str], folder: Path) -> None:
    """Write files into a new folder: all of them, or nothing.

    Raises:
        FileExistsError: The folder exists already.
        OSError: It cannot be written.
    """
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(f"{folder} exists already.")
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        unfinished.chmod(0o755)  # as mkdir makes them; a temporary one is its owner's alone
        for name, content in files.items():
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, "utf-8")
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _path(kind: str) -> Path:
    return _TEMPLATES / f"{kind}.txt"


def _sections(path: Path, words: Mapping[str, str]) -> dict[str, str]:
    """Return the files of a template by path, filled in."""
    _, *parts = _HEADING.split(Template(path.read_text("utf-8")).substitute(words))
    return dict(zip(parts[::2], parts[1::2], strict=True))
