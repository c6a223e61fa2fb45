"""What the benchmark of the whole server asks, and how it compares."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json

import pytest

from benchmarks.http_load import BATCH, FEATURES, OpenLoad, batches, bodies
from benchmarks.server import RATIOS, ROWS, compared

pytestmark = pytest.mark.contract("O6")


def test_every_body_asks_for_a_user_of_its_own():
    asked = [json.loads(each) for each in itertools.islice(bodies("x"), 300)]
    assert len({each["user_id"] for each in asked}) == 300
    assert {len(each["features"]) for each in asked} == {FEATURES}


def test_a_batch_is_of_32_users_who_were_not_asked_for_before():
    first, second = (json.loads(each)["requests"] for each in itertools.islice(batches("x"), 2))
    assert len(first) == len(second) == BATCH
    assert len({each["user_id"] for each in first + second}) == 2 * BATCH


def test_servers_are_compared_in_rows_that_both_ran():
    figures = {"lane": {"hit 64": 300.0, "miss 64": 10.0}, "fastapi": {"hit 64": 20.0}}
    assert compared(figures) == {"lane hit, x fastapi, 64": 15.0}


def test_every_ratio_is_of_a_row_that_is_run_with_these_servers():
    rows = {row.name: row.servers for row in ROWS}
    for ratio in RATIOS:
        assert {ratio.server, *ratio.to} <= set(rows[ratio.row]), ratio.name


def test_in_an_open_loop_a_request_waits_from_the_instant_when_it_was_due():
    """A server that answers one connection at a time, 20 ms each, falls behind 200 a second."""

    async def scene():
        turn = asyncio.Lock()

        async def serve(reader, writer):
            with contextlib.suppress(asyncio.IncompleteReadError):
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    async with turn:
                        await asyncio.sleep(0.02)
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        load = OpenLoad(lambda: b"GET / HTTP/1.1\r\n\r\n", rate=200.0)
        await load.run(server.sockets[0].getsockname()[1], 2, 0.2)
        server.close()
        return load

    load = asyncio.run(scene())
    assert load.answers == len(load.seconds) > 15
    assert min(load.seconds) >= 0.02
    assert max(load.seconds) >= 0.02 * load.answers - 0.2, "the last waited for all before it"
    assert load.seconds[-1] > 5 * load.seconds[0]
