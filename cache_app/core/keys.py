"""What makes two requests equal: the one place that builds and reads cache keys.

A key reads ``namespace:model:version-fingerprint:segment:user:context:features:generation``, as in
``recserve:movies:3-9f86d081:all:i42:-:-:0``. Its parts are percent-escaped, so no part can hold a
colon. The user is ``i`` and an int or ``s`` and a string; context and features are digests, or
``-`` for none. How many items are wanted is not in the key: one entry serves every ``k`` up to its
depth.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
from numpy.typing import NDArray

from plugins.contracts import UserId
from plugins.errors import InvalidInput

__all__ = [
    "MOST_TAGS",
    "TAGS",
    "KeyPrefix",
    "check_name",
    "digest_features",
    "digester",
    "entry_of",
    "in_generation",
    "in_namespace",
    "in_segment",
    "matcher",
    "recommendation_key",
    "segment_of",
    "tags_of",
]

TAGS = "tags"
"""The name in a request's context under which its tags are."""
MOST_TAGS = 16
"""Tags of a request at most; each is looked up at every request."""
LONGEST_NAME = 100
"""Characters of a tag, or of a segment, at most."""

_PLAIN = re.compile(r"[A-Za-z0-9_.~-]*").fullmatch
_NONE = "-"
_MODEL, _VERSION, _SEGMENT, _USER, _PARTS = 1, 2, 3, 4, 8
_INT = re.compile(r"0|-?[1-9][0-9]*")


def recommendation_key(
    *,
    namespace: str,
    model_name: str,
    version: int,
    fingerprint: str,
    segment: str,
    user_id: UserId,
    context: Mapping[str, Any],
    features_digest: bytes | str = "",
    generation: str = "0",
) -> str:
    """Return the key of a request; the same in every process and on every machine.

    Args:
        namespace: Keeps deployments apart that share a level.
        model_name: The model asked.
        version: The version that answers.
        fingerprint: Digest of what the version is. Levels outlive a database, in which a number
            may then mean another version.
        segment: The user's segment.
        user_id: The user; ``1`` and ``"1"`` are two users.
        context: The circumstances: JSON values, in any order of names.
        features_digest: What `digest_features` returned for the features given, if any.
        generation: What `Generations.of` returned for the request's scopes; empty: the key is
            returned without one, as `entry_of` does, for `in_generation`.

    Raises:
        InvalidInput: The user is neither text nor int, or the context holds what JSON cannot.
    """
    if isinstance(features_digest, bytes):
        features_digest = features_digest.hex()
    prefix = _prefix(namespace, model_name, f"{version}-{fingerprint}", segment)
    features = _quoted(features_digest) or _NONE
    entry = f"{prefix}:{_user(user_id)}:{_digest_context(context)}:{features}"
    return in_generation(entry, generation) if generation else entry


class KeyPrefix:
    """What the keys of one version in one segment begin with, made once for all of them.

    Its `entry` is what `recommendation_key` returns without a generation, in a third of the time.
    """

    __slots__ = ("_prefix",)

    def __init__(
        self, *, namespace: str, model_name: str, version: int, fingerprint: str, segment: str
    ) -> None:
        self._prefix = _prefix(namespace, model_name, f"{version}-{fingerprint}", segment)

    def entry(self, user_id: UserId, context: Mapping[str, Any], features_digest: str) -> str:
        """Return the key of a request, without its generation.

        Args:
            user_id: The user.
            context: The circumstances.
            features_digest: Hexadecimal digits, or nothing.

        Raises:
            InvalidInput: As `recommendation_key`.
        """
        circumstances = _digest_context(context) if context else _NONE
        return f"{self._prefix}:{_user(user_id)}:{circumstances}:{features_digest or _NONE}"


def in_namespace(namespace: str) -> str:
    """Return what every key of a namespace, and no other, begins with."""
    return quote(namespace, safe="") + ":"


def in_generation(entry: str, generation: str) -> str:
    """Return the key of an entry in a generation."""
    return f"{entry}:{generation}"


def entry_of(key: str) -> str:
    """Return a key without its generation: what it asks, whatever was invalidated.

    Args:
        key: A key, with its generation or without.

    Raises:
        ValueError: It is no key of a cached answer.
    """
    parts = key.split(":")
    if len(parts) not in {_PARTS - 1, _PARTS} or not all(parts) or not key.isascii():
        raise ValueError(
            "A key reads namespace:model:version-fingerprint:segment:user:context:features:"
            f"generation; {key[:100]!r} does not."
        )
    return ":".join(parts[: _PARTS - 1])


def segment_of(key: str) -> str:
    """Return the segment in a key, as it is written there; empty if the key has none."""
    parts = key.split(":", _SEGMENT + 1)
    return parts[_SEGMENT] if len(parts) > _SEGMENT else ""


def in_segment(segment: str) -> str:
    """Return how a segment is written in keys."""
    return quote(segment, safe="")


def tags_of(context: Mapping[str, Any]) -> Sequence[str]:
    """Return the tags that a request declares in its context.

    Raises:
        InvalidInput: They are no list of texts, or too many, or one is empty or too long: ignored,
            they would make an invalidation incomplete, and nobody would know.
    """
    tags = context.get(TAGS)
    if tags is None:
        return ()
    if not isinstance(tags, list | tuple) or len(tags) > MOST_TAGS:
        raise InvalidInput(
            f"context.tags must be a list of at most {MOST_TAGS} texts: what this answer can be "
            "invalidated by.",
            field="context.tags",
        )
    for i, tag in enumerate(tags):
        try:
            check_name(tag, "A tag")
        except ValueError as error:
            raise InvalidInput(str(error), field=f"context.tags[{i}]") from error
    return tags


def check_name(value: Any, what: str) -> None:
    """Refuse what is no name of a tag or a segment.

    Raises:
        ValueError: It is none; the message says what it must be.
    """
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME or not value.isprintable():
        raise ValueError(f"{what} must be a text of 1 to {LONGEST_NAME} printable characters.")


def digest_features(row: Sequence[NDArray[Any]]) -> str:
    """Return the digest of a row of arrays: their datatypes, shapes and bytes.

    The same on every machine. ``1`` is not ``1.0``, and ``[1, 2], [3]`` is not ``[1], [2, 3]``.
    """
    parts = []
    for array in row:
        head, little = _described(array.dtype, array.shape)
        parts.append(head)
        parts.append((array if little is None else array.astype(little)).tobytes())
    return _digest(b"".join(parts))


def digester(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Callable[[bytes], str]:
    """Return what `digest_features` would of a row of one array, as a function of its bytes.

    Args:
        dtype: The array's datatype. The bytes are little-endian whatever it says.
        shape: The array's shape.
    """
    head, _ = _described(dtype, shape)
    begun = hashlib.blake2b(head, digest_size=16)

    def digest(data: bytes) -> str:
        copy = begun.copy()
        copy.update(data)
        return copy.hexdigest()

    return digest


@functools.lru_cache(maxsize=1024)
def _described(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[bytes, np.dtype[Any] | None]:
    """Return datatype and shape as bytes, and the datatype to convert to; None: it is as is."""
    little = dtype.newbyteorder("<")
    return f"{little.str}{shape}".encode(), None if little == dtype else little


def matcher(
    *,
    namespace: str | None = None,
    model_name: str | None = None,
    version: int | None = None,
    user_id: UserId | None = None,
) -> Callable[[str], bool]:
    """Return whether a key belongs to all that is given, as a predicate on keys.

    A user given as text matches the user of that text and the int that is written so: whoever
    clears a user through a URL cannot tell them apart. A user given as int matches only the int.
    """
    wanted: list[tuple[int, frozenset[str]]] = []
    if namespace is not None:
        wanted.append((0, frozenset({quote(namespace, safe="")})))
    if model_name is not None:
        wanted.append((_MODEL, frozenset({quote(model_name, safe="")})))
    if user_id is not None:
        users = {_user(user_id)}
        if isinstance(user_id, str) and _INT.fullmatch(user_id):
            users.add(f"i{user_id}")
        wanted.append((_USER, frozenset(users)))

    number = "" if version is None else f"{version}-"

    def matches(key: str) -> bool:
        parts = key.split(":")
        return (
            len(parts) == _PARTS
            and all(parts[place] in texts for place, texts in wanted)
            and parts[_VERSION].startswith(number)
        )

    return matches


@functools.lru_cache(maxsize=1024)
def _prefix(namespace: str, model_name: str, version: str, segment: str) -> str:
    texts = (quote(text, safe="") for text in (namespace, model_name, version, segment))
    return ":".join(texts)


def _quoted(text: str) -> str:
    """Return what ``quote`` returns, which takes ten times as long to find nothing to quote."""
    return text if _PLAIN(text) else quote(text, safe="")


def _user(user_id: UserId) -> str:
    if isinstance(user_id, str):
        try:
            return "s" + _quoted(user_id)
        except UnicodeEncodeError as error:
            raise InvalidInput("user_id is no valid Unicode text.", field="user_id") from error
    if isinstance(user_id, bool) or not isinstance(user_id, int):
        raise InvalidInput(
            f"user_id must be text or a whole number, not {type(user_id).__name__}.",
            field="user_id",
        )
    try:
        return f"i{user_id:d}"
    except ValueError as error:  # Python prints no int of more than 4300 digits
        raise InvalidInput("user_id has too many digits.", field="user_id") from error


def _digest_context(context: Mapping[str, Any]) -> str:
    if not context:
        return _NONE
    try:
        plain = dict(context)
        if tags := tags_of(plain):
            plain[TAGS] = sorted(set(tags))  # their order says nothing
        _check_json(plain)
        # Deterministic: the names of every object, nested ones too, are sorted.
        return _digest(msgspec.json.encode(plain, order="deterministic"))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"context is not JSON: {error}", field="context") from error


def _check_json(value: Any) -> None:
    """Refuse what msgspec would write like something else: NaN as null, a name 1 as "1"."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is no JSON number")
    elif isinstance(value, dict):
        for name, each in value.items():
            if not isinstance(name, str):
                raise TypeError(f"the name {name!r} is not text")
            _check_json(each)
    elif isinstance(value, list | tuple):
        for each in value:
            _check_json(each)
    elif value is not None and type(value) not in {str, int, bool}:
        raise TypeError(f"{type(value).__name__} is no JSON type")


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
