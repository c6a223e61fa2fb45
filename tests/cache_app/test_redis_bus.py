"""The epoch bus, on a real server that dies, hangs and talks nonsense."""

import pytest

from cache_app.redis_bus import EpochBus
from tests import servers

pytestmark = [pytest.mark.contract("C8"), pytest.mark.xdist_group("redis")]


@pytest.fixture
def server():
    with servers.one() as server:
        yield server


@pytest.fixture
def make(server):
    made = []

    def make(namespace="t", *, start=True):
        heard = []
        bus = EpochBus(server.url, namespace, heard=heard.append, timeout=0.05)
        made.append(bus)
        if start:
            bus.start()
            servers.wait_for(lambda: bus.connected, what="the bus is connected")
        return bus, heard

    yield make
    for bus in made:
        bus.close()


def test_every_listener_of_the_namespace_hears_an_epoch(make):
    (one, heard_by_one), (_, heard_by_two) = make(), make()
    _, heard_elsewhere = make("other")
    sender, _ = make(start=False)
    assert one.publish(7)
    assert sender.publish(8)
    for heard in (heard_by_one, heard_by_two):
        servers.wait_for(lambda heard=heard: heard[-1:] == [8])
        assert heard == [0, 7, 8]
    assert heard_elsewhere == [0]


def test_nonsense_on_the_channel_is_passed_over(make, server):
    bus, heard = make()
    for rubbish in (b"", b"x", b"-1", b"1.5", b"\xff" * 1000, "٣".encode()):
        server.client.publish("rs:t:epochs", rubbish)
    assert bus.publish(9)
    servers.wait_for(lambda: heard[-1:] == [9])
    assert heard == [0, 9]


def test_after_the_server_was_away_the_bus_says_that_something_may_be_missed(make, server):
    bus, heard = make()
    server.kill()
    servers.wait_for(lambda: not bus.connected, what="the loss is noticed")
    assert bus.publish(5) is False
    server.start()
    server.wait()
    servers.wait_for(lambda: bus.connected, what="the bus is back")
    assert heard == [0, 0]


def test_a_server_that_hangs_is_taken_for_lost(make, server):
    bus, _ = make()
    server.stop()
    try:
        servers.wait_for(lambda: not bus.connected, what="the silence is noticed")
    finally:
        server.go_on()
    servers.wait_for(lambda: bus.connected, what="the bus is back")
