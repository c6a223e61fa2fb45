"""What differs between two versions of a model: shown before one takes the other's place."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from plugins import RecserveError
from serving_app.conf import serving_settings
from serving_app.core.artifacts import locate
from serving_app.core.ranking import read_catalogue
from serving_app.models import Activation, ModelVersion

__all__ = ["Difference", "differences"]

NONE = "—"
_NAMED = 5
"""Items that are named; the others are counted."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One line: what, as it is now, and as it will be."""

    what: str
    now: str
    then: str


def differences(now: ModelVersion | None, then: ModelVersion) -> list[Difference]:
    """Return what changes for callers when one version takes another's place.

    Args:
        now: The version that answers now; None: none does.
        then: The version that will.
    """
    lines = [
        Difference("version", NONE if now is None else str(now), str(then)),
        Difference("in memory already", _loaded(now), _loaded(then)),
    ]
    for what, value in _DESCRIBED.items():
        before, after = NONE if now is None else value(now), value(then)
        if before != after:
            lines.append(Difference(what, before, after))
    if now is not None and now.catalogue_sha256 != then.catalogue_sha256:
        lines.append(_items(now, then))
    return lines


def _loaded(version: ModelVersion | None) -> str:
    """Return in how many of the processes that report anything a version is in memory."""
    if version is None:
        return NONE
    states = (Activation.State.LIVE, Activation.State.WARM)
    rows = Activation.objects.filter(version=version, state__in=states)
    of_all = Activation.objects.values("process").distinct().count()
    return f"{rows.values('process').distinct().count()} of {of_all} processes"


def _text(value: Any) -> str:
    if not value:
        return NONE
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _signature(version: ModelVersion) -> str:
    """Return the inputs and outputs, each with name, datatype and shape."""
    parts = []
    for side in ("inputs", "outputs"):
        for tensor in version.signature.get(side, ()):
            shape = ", ".join("?" if n in {-1, None} else str(n) for n in tensor.get("shape", ()))
            parts.append(f"{tensor.get('name')}: {tensor.get('datatype')} ({shape})")
    return "; ".join(parts) or NONE


_DESCRIBED: dict[str, Callable[[ModelVersion], str]] = {
    "artifact": lambda v: f"{v.artifact} (SHA-256 {v.sha256[:12]}…)",
    "framework": lambda v: f"{v.framework} {_text(v.framework_options)}".removesuffix(f" {NONE}"),
    "signature": _signature,
    "features": lambda v: ", ".join(v.feature_names) or NONE,
    "feature schema": lambda v: _text(v.feature_schema),
    "feature source": lambda v: (
        f"{v.feature_source or NONE} {_text(v.feature_source_options)}".removesuffix(f" {NONE}")
    ),
    "output": lambda v: f"{v.get_output_display()} {_text(v.output_options)}",
    "items": lambda v: str(v.items),
    "quality figures": lambda v: _text(v.metrics),
    "last validation": lambda v: v.problem or "found nothing wrong",
}


def _items(now: ModelVersion, then: ModelVersion) -> Difference:
    """Return which items come and go."""
    try:
        before, after = (_catalogue(version) for version in (now, then))
    except (RecserveError, OSError) as error:
        return Difference("catalogue", "", f"cannot be compared: {error}")
    gone, new = sorted(before - after), sorted(after - before)
    return Difference("catalogue", _listed("gone then", gone), _listed("new", new))


def _catalogue(version: ModelVersion) -> set[str]:
    if not version.catalogue:
        return set()
    path = locate(serving_settings().model_store, version.catalogue)
    return set(read_catalogue(path).items)


def _listed(word: str, items: list[str]) -> str:
    if not items:
        return f"none {word}"
    named = ", ".join(items[:_NAMED]) + (" …" if len(items) > _NAMED else "")
    return f"{len(items)} {word}: {named}"
