"""A recommendation service of the usual shape: FastAPI, pydantic, PyJWT, a dict of pickled answers.

Its cache is in memory, which is the faster of what such services use; they have Redis besides.
``PEER_MODEL`` names the TorchScript file, ``PEER_SECRET`` the key of its tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import time
from collections.abc import Callable
from typing import Annotated, Any

import jwt
from fastapi import Depends, FastAPI, HTTPException
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field


def _scores() -> Callable[[list[float]], list[float]]:
    """Return the model as a function of one row."""
    import torch

    torch.set_num_threads(1)
    model = torch.jit.load(os.environ["PEER_MODEL"])

    def scores(row: list[float]) -> list[float]:
        with torch.inference_mode():
            found: list[float] = model(torch.tensor([row]))[0].tolist()
        return found

    return scores


_model = _scores()
_items = [f"item-{n}" for n in range(10_000)]
_cache: dict[str, tuple[float, bytes]] = {}
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


@application.post("/api/v1/predict")
async def predict(query: Query, _: Annotated[str, Depends(signed_in)]) -> Answer:
    """Return the best items for one user."""
    started = time.perf_counter()
    key = hashlib.md5(json.dumps(query.model_dump(), sort_keys=True).encode()).hexdigest()
    kept = _cache.get(key)
    if kept is not None and kept[0] > time.time():
        items, scores = pickle.loads(kept[1])
    else:
        everything = _model(query.features)
        best = sorted(range(len(everything)), key=everything.__getitem__, reverse=True)[: query.k]
        items, scores = [_items[n] for n in best], [everything[n] for n in best]
        _cache[key] = time.time() + 300, pickle.dumps((items, scores))
    return Answer(
        user_id=query.user_id,
        recommendations=items,
        scores=scores,
        latency_ms=(time.perf_counter() - started) * 1000,
        cached=kept is not None,
    )
