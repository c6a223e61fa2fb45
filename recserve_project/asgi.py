"""ASGI entry point: the lane in front of Django; it starts the models, and drains them."""

from __future__ import annotations

import asyncio
import gc
import os
import warnings
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "recserve_project.settings")

# WhiteNoise reads a static file in one go, which is as well for files this small.
warnings.filterwarnings(
    "ignore", message="StreamingHttpResponse must consume synchronous iterators"
)

_django = get_asgi_application()

from recserve_project import streams  # noqa: E402  (needs the apps to be loaded)
from serving_app import request_log, wiring  # noqa: E402
from serving_app.api.body_limit import BodyLimit  # noqa: E402
from serving_app.api.lane import Lane  # noqa: E402
from serving_app.api.lane_inference import InferenceLane  # noqa: E402
from serving_app.api.request_ids import RequestIds  # noqa: E402
from serving_app.traces import traced  # noqa: E402

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_others = RequestIds(BodyLimit(_django))  # type: ignore[arg-type]  # its scope is a dict, as servers give it
_lane = Lane(InferenceLane(_others))
_http = traced(_lane)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one connection: the server's life span, or a request."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    else:
        await _http(scope, receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    """Start the reconciler with the server; finish what is under way when it stops.

    A server takes connections only after the start is complete: where several processes share a
    port, one whose models are still loading leaves the requests to the others.
    """
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await asyncio.to_thread(wiring.start)
            wiring.attach(asyncio.get_running_loop())
            await asyncio.to_thread(wiring.wait_until_ready)
            gc.collect()
            gc.freeze()  # what is there now stays: no collection need look at it again
            streams.listen()
            request_log.defer()
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            wiring.detach()
            await asyncio.to_thread(wiring.stop)
            await asyncio.to_thread(request_log.write_at_once)
            await send({"type": "lifespan.shutdown.complete"})
            return
