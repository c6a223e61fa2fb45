"""A recommendation service of the usual shape: FastAPI, pydantic, PyJWT, pickled answers.

Its answers are kept in a dict, or in the Redis that ``PEER_REDIS`` names; the model is called for
what came within a fixed window. ``PEER_MODEL`` names the TorchScript file, ``PEER_SECRET`` the key
of its tokens.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pickle
import time
from typing import Annotated, Any

import jwt
import redis.asyncio
from fastapi import Depends, FastAPI, HTTPException
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field

WINDOW, MOST = 0.005, 32
"""Seconds that the first of a batch waits for others, and how many there are at most."""


class Model:
    """The model, called for all rows that came within a window."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        self._torch = torch
        self._model = torch.jit.load(os.environ["PEER_MODEL"])
        self._waiting: list[tuple[list[float], asyncio.Future[list[float]]]] = []

    async def scores(self, row: list[float]) -> list[float]:
        """Return the scores of all items for one row."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[float]] = loop.create_future()
        self._waiting.append((row, answer))
        if len(self._waiting) == 1:
            self._timer = loop.call_later(WINDOW, self._run)
        elif len(self._waiting) == MOST:
            self._timer.cancel()
            self._run()
        return await answer

    def _run(self) -> None:
        batch, self._waiting = self._waiting, []
        with self._torch.inference_mode():
            found = self._model(self._torch.tensor([row for row, _ in batch])).tolist()
        for (_, answer), scores in zip(batch, found, strict=True):
            if not answer.cancelled():
                answer.set_result(scores)


class Cache:
    """Pickled answers, in memory or in a Redis, for five minutes."""

    def __init__(self, url: str) -> None:
        self._kept: dict[str, tuple[float, bytes]] = {}
        self._redis = redis.asyncio.from_url(url) if url else None

    async def get(self, key: str) -> bytes | None:
        """Return what was kept under a key."""
        if self._redis is not None:
            found: bytes | None = await self._redis.get(key)
            return found
        kept = self._kept.get(key)
        return kept[1] if kept is not None and kept[0] > time.time() else None

    async def set(self, key: str, value: bytes) -> None:
        """Keep it."""
        if self._redis is not None:
            await self._redis.set(key, value, ex=300)
        else:
            self._kept[key] = time.time() + 300, value


_model = Model()
_cache = Cache(os.environ.get("PEER_REDIS", ""))
_items = [f"item-{n}" for n in range(10_000)]
_bearer = HTTPBearer()

application = FastAPI()
application.add_middleware(GZipMiddleware, minimum_size=1000)
application.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"])


class Query(BaseModel):
    """One request."""

    user_id: str
    features: list[float] = Field(min_length=64, max_length=64)
    context: dict[str, Any] = {}
    k: int = Field(10, ge=1, le=100)


class Answer(BaseModel):
    """Its answer."""

    user_id: str
    recommendations: list[str]
    scores: list[float]
    latency_ms: float
    cached: bool


def signed_in(credentials: Annotated[HTTPAuthorizationCredentials, Depends(_bearer)]) -> str:
    """Return who asks."""
    try:
        claims = jwt.decode(
            credentials.credentials, os.environ["PEER_SECRET"], algorithms=["HS256"]
        )
    except jwt.InvalidTokenError as error:
        raise HTTPException(401) from error
    subject: str = claims["sub"]
    return subject


class Queries(BaseModel):
    """Several requests."""

    requests: list[Query] = Field(max_length=256)


class Answers(BaseModel):
    """Their answers, in order."""

    results: list[Answer]


@application.post("/api/v1/predict")
async def predict(query: Query, _: Annotated[str, Depends(signed_in)]) -> Answer:
    """Return the best items for one user."""
    return await answer(query)


@application.post("/api/v1/predict/batch")
async def predict_batch(queries: Queries, _: Annotated[str, Depends(signed_in)]) -> Answers:
    """Return the best items for several users."""
    return Answers(results=await asyncio.gather(*map(answer, queries.requests)))


async def answer(query: Query) -> Answer:
    """Look the answer up, or let the model compute it."""
    started = time.perf_counter()
    key = hashlib.md5(json.dumps(query.model_dump(), sort_keys=True).encode()).hexdigest()
    kept = await _cache.get(key)
    if kept is not None:
        items, scores = pickle.loads(kept)
    else:
        everything = await _model.scores(query.features)
        best = sorted(range(len(everything)), key=everything.__getitem__, reverse=True)[: query.k]
        items, scores = [_items[n] for n in best], [everything[n] for n in best]
        await _cache.set(key, pickle.dumps((items, scores)))
    return Answer(
        user_id=query.user_id,
        recommendations=items,
        scores=scores,
        latency_ms=(time.perf_counter() - started) * 1000,
        cached=kept is not None,
    )
