"""The dashboard beside two workers under load: its figures are those of everyone else."""

import contextlib
import json
import os
import re
import signal
import threading
import time
from collections import Counter

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.journeys.conftest import free_port, start, stop
from tests.servers import wait_for

pytestmark = [pytest.mark.xdist_group("journey"), pytest.mark.contract("O2")]

MODEL = "popular"


@pytest.fixture
def two_workers(installation, server):
    """The demo's installation, served by two more processes on another port."""
    running = start(installation[0], free_port(), workers=2)
    yield running
    if running.process.poll() is None:
        stop(running)


@contextlib.contextmanager
def signed_in(server):
    """A browser without its window: a client with the administrator's session."""
    with httpx.Client(base_url=server.url, timeout=60, follow_redirects=True) as client:
        form = client.get("/admin/login/").text
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)[1]
        credentials = {name: server.demo[name] for name in ("username", "password")}
        given = {**credentials, "csrfmiddlewaretoken": token, "next": "/admin/"}
        page = client.post("/admin/login/", data=given, headers={"Referer": server.url})
        assert "Site administration" in page.text
        yield client


def events(client, **query):
    """Yield what the stream sends, until it ends."""
    with client.stream("GET", "/admin/dashboard/stream/", params=query) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def ask(server, n, *, repeat=2, name="load"):
    """Ask ``n`` users' questions, each some times, over many connections, of several threads."""

    def some(thread):
        with server.client() as client:
            for i in range(thread, n, 4):
                for _ in range(repeat):
                    question = {"user_id": f"{name}-{i}", "model_name": MODEL}
                    headers = {"Connection": "close"}
                    assert client.post("predict", json=question, headers=headers).is_success

    threads = [threading.Thread(target=some, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def scraped(client):
    """Return requests by source, and the latency histogram's count, as Prometheus has them."""
    found = Counter()
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.labels.get("model") == MODEL:
                if sample.name == "recserve_requests_total":
                    found[sample.labels["source"]] += sample.value
                if sample.name == "recserve_request_duration_seconds_count":
                    found["timed"] += sample.value
    return found


def workers(api):
    """Return the names of both workers."""
    names = set()

    def answers():
        health = api.get("health", headers={"Connection": "close"}).json()
        names.add(health["process"])
        return len(names) == 2

    wait_for(answers, what="both workers answer")
    return names


def test_its_figures_are_those_of_prometheus_and_of_the_api(two_workers):
    with two_workers.client() as api, signed_in(two_workers) as admin:
        names, seen = workers(api), []
        stream = events(admin, model=MODEL)
        for event in stream:  # whoever has told nothing yet only begins to count
            seen += [point["at"] for point in event["points"]]
            if names <= {each["name"] for each in event["state"]["processes"]}:
                break
        stats = api.get("serving/stats").json()["models"][MODEL]
        before, api_before = scraped(admin), Counter(stats["by_source"])
        ask(two_workers, 150)
        wanted = 300
        points = []
        for event in stream:
            points += event["points"]
            if sum(point["requests"] for point in points) >= wanted:
                break
        stats = api.get("serving/stats").json()["models"][MODEL]
        after, api_after = scraped(admin), Counter(stats["by_source"])
    mine = Counter()
    for point in points:
        mine.update(point["by_source"])
    assert mine.total() == wanted
    prometheus = after - before
    assert prometheus.pop("timed") == wanted
    assert mine == prometheus == api_after - api_before
    assert all(point["at"] > max(seen, default=0) for point in points), "nothing is sent twice"
    hits = sum(n for point in points for name, n in point["lookups"].items() if name != "miss")
    assert hits == mine["l1"] + mine["l2"]
    assert all(point["latency_ms"]["p99"] > 0 for point in points if point["requests"])


def test_a_worker_that_is_gone_leaves_a_gap_and_a_stop_ends_the_stream(two_workers):
    """It is said which worker is missing; the others' figures go on."""
    with two_workers.client() as api, signed_in(two_workers) as admin:
        names = workers(api)
        stream = events(admin)
        mine = next(stream)["state"]["process"]
        (other,) = names - {mine}
        os.kill(int(other.rpartition(":")[2]), signal.SIGKILL)
        for event in stream:
            if any(other in point["silent"] for point in event["points"]):
                break
        assert event["points"][-1]["silent"] == [other]
        state = event["state"]
        seen = {each["name"]: each["seen"] for each in state["processes"]}
        assert event["now"] - seen[other] > state["silent_after"]
        assert event["now"] - seen[mine] < state["silent_after"]
        two_workers.process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        for _ in stream:
            pass
        assert two_workers.process.wait(30) in {0, -signal.SIGTERM}
        assert "graceful shutdown exceeded" not in two_workers.log.read_text()
        assert time.monotonic() - told < 30
