"""What a cache key says: `cache_app.core.keys` builds it."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote

from plugins.contracts import UserId

__all__ = ["KeyParts", "parts_of"]


class KeyParts(NamedTuple):
    """The parts of a key; context and features are digests, empty where there is none."""

    model_name: str
    version: int
    segment: str
    user_id: UserId
    context: str
    features: str
    generation: str


def parts_of(key: str) -> KeyParts:
    """Return what a key with its generation says.

    Raises:
        ValueError: It is no key of a cached answer.
    """
    try:
        _namespace, model, version, segment, user, context, features, generation = key.split(":")
        number = int(version.partition("-")[0])
        user_id: UserId = int(user[1:]) if user[0] == "i" else unquote(user[1:])
    except (ValueError, IndexError) as error:
        raise ValueError(f"{key[:100]!r} is no key of a cached answer.") from error
    return KeyParts(
        unquote(model),
        number,
        unquote(segment),
        user_id,
        "" if context == "-" else context,
        "" if features == "-" else features,
        generation,
    )
