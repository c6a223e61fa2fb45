"""A user's entries in the cache: which questions there are answers to, and where these are.

What is looked up is what the user is known to ask (activity), the question without a context of
every live model, and whatever this process's memory has of the user. So an answer to features that
were sent along shows only where it is in this memory: the levels below cannot be searched by user.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from cache_app.conf import cache_settings
from cache_app.core.generations import scopes_of
from cache_app.core.key_parts import KeyParts, parts_of
from cache_app.core.keys import entry_of, matcher
from cache_app.core.residences import Residence, keys_in_memory, residences
from cache_app.invalidation import invalidate
from cache_app.wiring import get_generations, get_levels
from plugins import Recommendation, RecommendationRequest, RecserveError, UserId
from serving_app import wiring
from serving_app.activity_models import ActivityCount

__all__ = ["MOST", "CachedEntry", "UserEntries", "compute_anew", "entries_of", "find_entry"]

MOST = 100
"""Questions of a user that are looked up, those asked last first, and entries shown."""


@dataclass(slots=True)
class CachedEntry:
    """One question, and where its answer is."""

    key: str
    parts: KeyParts
    residences: list[Residence]
    aliases: list[str] = field(default_factory=list)
    """The aliases by which it was asked."""
    asked: bool = False
    """Whether the user is known to have asked it."""
    request: RecommendationRequest | None = None
    """The question; None: not known, as features came along, or nobody asked it lately."""

    @property
    def context(self) -> Any:
        """The question's context; None: not known."""
        if self.request is not None:
            return dict(self.request.context)
        return None if self.parts.context else {}


@dataclass(slots=True)
class UserEntries:
    """What was found of one user."""

    entries: list[CachedEntry]
    away: list[str]
    """Levels that did not answer: what they have is missing."""
    forgotten: int
    """Entries still in this memory that were invalidated, and that nobody is given any more."""
    more: int
    """Entries that are not shown, as there are too many."""


def entries_of(
    user: str, *, model_name: str | None = None, models: Collection[str] | None = None
) -> UserEntries:
    """Return what is known of a user's entries.

    Args:
        user: The user, as text; one that is written as a number is looked up as that, too.
        model_name: Of which model; None: of all.
        models: The models that the caller may see; None: all.
    """
    levels = get_levels()

    def seen(name: str) -> bool:
        return (model_name is None or name == model_name) and (models is None or name in models)

    found: dict[str, CachedEntry] = {}
    for request, asked in _questions(user):
        if seen(request.model_name):
            _add(found, request, asked=asked)
    mine = matcher(namespace=cache_settings().namespace, user_id=user)
    forgotten = 0
    for key in keys_in_memory(levels, mine):
        if key in found:
            continue
        parts = parts_of(key)
        if not seen(parts.model_name):
            continue
        if _is_forgotten(key, parts):
            forgotten += 1
        else:
            found[key] = CachedEntry(key, parts, [])
    away: set[str] = set()
    for entry in found.values():
        entry.residences, silent = residences(levels, entry.key)
        away.update(silent)
    shown = [entry for entry in found.values() if entry.residences or entry.asked]
    shown.sort(key=lambda entry: (not entry.residences, entry.parts.model_name, entry.key))
    return UserEntries(shown[:MOST], sorted(away), forgotten, max(0, len(shown) - MOST))


def find_entry(user: str, key: str) -> CachedEntry | None:
    """Return one of a user's entries; None: there is none of this key any more."""
    return next((entry for entry in entries_of(user).entries if entry.key == key), None)


def compute_anew(entry: CachedEntry) -> Recommendation:
    """Forget an entry in every process, and compute its question now.

    Raises:
        BadRequest: The question can no longer be answered as it is; the entry is forgotten.
        Unavailable: The model cannot answer now; the entry is forgotten.
        ValueError: The question is not known; nothing has changed.
        DatabaseError: It could not be invalidated; nothing has changed.
    """
    if entry.request is None:
        raise ValueError("The features that came with this question are not kept.")
    invalidate(key=entry.key)
    get_generations().refresh()  # where a transaction is under way, nobody is told yet
    return wiring.get_recommender().recommend(entry.request)


def _questions(user: str) -> list[tuple[RecommendationRequest, bool]]:
    """Return what the user asked lately, the last first, and each live model without a context.

    Each with whether it was asked.
    """
    rows = (
        ActivityCount.objects.filter(user=user, kind="request", own_features=False)
        .order_by("-hour", "-digest")
        .values_list("model", "alias", "context", "user_is_number")[: 10 * MOST]
    )
    questions: dict[tuple[Any, ...], RecommendationRequest] = {}
    for model, alias, context, is_number in rows:
        user_id: UserId = int(user) if is_number else user
        questions[model, alias, context, is_number] = RecommendationRequest(
            user_id, model, alias, context=json.loads(context)
        )
        if len(questions) == MOST:
            break
    asked = set(questions)
    for user_id in {user, int(user) if user.isascii() and user.isdecimal() else user}:
        for model in wiring.get_serving().live.routes():
            number = isinstance(user_id, int)
            questions.setdefault((model, "", "{}", number), RecommendationRequest(user_id, model))
    return [(request, place in asked) for place, request in questions.items()]


def _add(found: dict[str, CachedEntry], request: RecommendationRequest, *, asked: bool) -> None:
    """Add a question by its key, if it has one here."""
    try:
        key = wiring.get_recommender().key(request)
    except RecserveError:  # its model is not live any more, or not in this process
        return
    entry = found.setdefault(key, CachedEntry(key, parts_of(key), [], request=request))
    entry.asked |= asked
    if request.alias:
        entry.aliases.append(request.alias)


def _is_forgotten(key: str, parts: KeyParts) -> bool:
    """Return whether an entry was stored before an invalidation that covers it.

    Its tags are not known; what was invalidated by one of them counts as current.
    """
    scopes = scopes_of(
        user_id=parts.user_id,
        model_name=parts.model_name,
        version=parts.version,
        segment=parts.segment,
    )
    generation = get_generations().of(scopes, entry_of(key))
    if not (generation.isdecimal() and parts.generation.isdecimal()):
        return generation != parts.generation
    return int(parts.generation) < int(generation)
