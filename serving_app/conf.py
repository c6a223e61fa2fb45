"""The settings of serving: ``RECSERVE["SERVING"]``, read here and nowhere else."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from cache_app.conf_values import count, file_path, one_of, positive, section

_WHERE = 'RECSERVE["SERVING"]'

AUTO, ON, OFF = "auto", "on", "off"
"""Values of `LANE`; without ``on``, also of `MODEL_HOST`, where they are no path."""
PROTOCOL, ASGI = "protocol", "asgi"
"""Values of `LANE_ENTRANCE`."""
HOST_VARIABLE = "RECSERVE_HOST_SOCKET"
"""Environment variable by which ``manage.py serve`` tells its workers of their model host."""


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """Settings of serving. Each field is a key of ``RECSERVE["SERVING"]`` in upper case."""

    model_store: Path = Path("var/models")
    """Directory that holds every artifact, catalogue and feature file."""
    depth: int = 100
    """How deep a ranking is computed and cached at least."""
    max_k: int = 1000
    """The largest ``k`` that a request may ask for."""
    max_exclude: int = 1000
    """The most item ids that a request may exclude."""
    max_requests: int = 256
    """The most requests in one call of ``/predict/batch``."""
    max_body_bytes: int = 1_000_000
    """The largest request body that the API reads."""
    max_infer_bytes: int = 64 * 1024 * 1024
    """The largest body of the Open Inference Protocol, as sent and decompressed."""
    head_seconds: float = 10.0
    """How long a client may take to send a request's head, or to begin."""
    body_seconds: float = 60.0
    """How long it may take to send the body of a request to the API."""
    upload_seconds: float = 3600.0
    """How long it may take to send any other body, such as an artifact in the admin."""
    max_context_depth: int = 5
    """How deeply a request's context may be nested."""
    max_context_bytes: int = 8192
    """The largest context, as JSON."""
    reconcile_seconds: float = 1.0
    """How often a process looks for changes that another one made."""
    keep_seconds: float = 300.0
    """How long a version that left production stays in memory, for a roll-back."""
    recent_rows: int = 64
    """How many of the rows that a model was asked last are kept, to warm its next version with."""
    warm_seconds: float = 5.0
    """How long a version that has been loaded is warmed, at most, before it answers."""
    startup_seconds: float = 60.0
    """How long a starting server process may load models before it takes requests all the same."""
    validation_seconds: float = 120.0
    """How long loading and sampling a model may take while it is validated."""
    max_upload_bytes: int = 2_000_000_000
    """The largest artifact that the admin accepts as an upload."""
    model_host: str = AUTO
    """Where models run: ``auto``, ``off``, or the path of a model host's socket."""

    lane: str = AUTO
    """Whether the lane answers the hot endpoints: ``auto``, ``on`` or ``off``."""

    lane_entrance: str = PROTOCOL
    """Where ``manage.py serve`` lets requests in: ``protocol``, uvicorn's class that looks for hits
    itself, or ``asgi``."""

    def host_socket(self) -> Path | None:
        """Return the socket of the model host that this process uses; None: it runs models itself.

        ``manage.py serve`` has the last word: it says in the environment of its workers which
        host it started for them, or ``off``.
        """
        given = os.environ.get(HOST_VARIABLE, "") or self.model_host
        return None if given in {AUTO, OFF} else Path(given)


def serving_settings() -> ServingSettings:
    """Return the settings.

    Raises:
        ImproperlyConfigured: A key is unknown, or its value is not of the key's type, or not
            positive.
    """
    given = getattr(settings, "RECSERVE", {}).get("SERVING", {})
    try:
        # Types, too, as True and 1.0 equal 1. Django's door asks several times a request.
        return _remembered(tuple((key, type(value), value) for key, value in given.items()))
    except (AttributeError, TypeError):  # not of a form that could be right: it is told what is not
        return _read(given)


@functools.lru_cache(maxsize=16)
def _remembered(given: tuple[tuple[str, type, Any], ...]) -> ServingSettings:
    return _read({key: value for key, _, value in given})


def _read(given: Any) -> ServingSettings:
    types: dict[str, Any] = {f.name.upper(): f.default.__class__ for f in fields(ServingSettings)}
    return ServingSettings(
        **{
            key.lower(): _checked(key, value, types[key])
            for key, value in section(given, _WHERE, types).items()
        }
    )


def _checked(key: str, value: Any, type_: type) -> Any:
    where = f"{_WHERE}[{key!r}]"
    if issubclass(type_, Path):
        return file_path(value, where)
    if key == "LANE":
        return one_of(value, (AUTO, ON, OFF), where)
    if key == "LANE_ENTRANCE":
        return one_of(value, (PROTOCOL, ASGI), where)
    if issubclass(type_, str):
        if not isinstance(value, str) or not (value in {AUTO, OFF} or Path(value).is_absolute()):
            raise ImproperlyConfigured(
                f"{where} must be {AUTO!r}, {OFF!r} or the absolute path of a socket, "
                f"not {value!r}."
            )
        return value
    return count(value, where) if type_ is int else positive(value, where)
