"""Several worker processes of one server: what is shared is shared, and counts are summed."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import servers
from tests.journeys.conftest import free_port, manage, start, stop

pytestmark = pytest.mark.xdist_group("journey")


@pytest.fixture
def two_workers(installation, server):
    """The demo's installation, served by two more processes on another port."""
    port = free_port()
    running = start(installation[0], port, workers=2)
    yield running
    stop(running)


@pytest.mark.contract("S9")
def test_a_worker_takes_no_request_before_its_models_are_live(two_workers):
    assert two_workers.first_status == 200
    with two_workers.client() as client:
        for n in range(20):  # both workers answer some
            asked = {"user_id": f"early-{n}"}
            answer = client.post("predict", json=asked, headers={"Connection": "close"})
            assert answer.status_code == 200, answer.text


@pytest.mark.contract("C8")
def test_no_worker_serves_what_was_invalidated(two_workers, server):
    seen = set()
    with two_workers.client() as client:
        for turn in range(12):
            user = f"invalidated-{turn}"
            tag = f"turn {turn}"
            question = {"user_id": user, "context": {"turn": turn, "tags": ["demo", tag]}}

            def ask(question=question):
                # A new connection each time: the workers take turns.
                response = client.post("predict", json=question, headers={"Connection": "close"})
                return response.json()

            assert ask()["cached"] is False
            assert all(ask()["cached"] for _ in range(6))
            forget = (
                lambda user=user: client.delete("cache/clear", params={"user_id": user}),
                lambda user=user: client.post("cache/invalidate", json={"user_id": user}),
                lambda tag=tag: client.post("cache/invalidate", json={"tag": tag}),
                lambda q=question: client.post("cache/invalidate", json={"question": q}),
                lambda user=user: manage(two_workers.var, "invalidate", "--user", user),
                lambda tag=tag: manage(two_workers.var, "invalidate", "--tag", tag),
            )
            done = forget[turn % len(forget)]()
            assert getattr(done, "status_code", 200) == 200, done
            first = ask()
            assert first["cached"] is False
            later = [ask() for _ in range(6)]
            assert all(answer["cached"] for answer in later)
            seen |= {answer["source"] for answer in later}
            seen |= {client.get("cache/stats", headers={"Connection": "close"}).json()["process"]}
    assert {"l1", "l2"} <= seen, "both workers answered"
    with server.client() as other:  # a process of its own, on the same installation
        assert other.post("predict", json=question).json()["source"] in {"l2", "l1"}


@pytest.mark.contract("S10")
def test_statistics_are_summed_over_the_workers(two_workers):
    def asked(client):
        answer = client.get("serving/stats", headers={"Connection": "close"}).json()
        return answer["models"]["popular"]["requests"], answer["processes"]

    with two_workers.client() as client:
        before, _ = asked(client)
        for n in range(20):
            question = {"user_id": f"counted-{n}", "model_name": "popular"}
            client.post("predict", json=question, headers={"Connection": "close"})
        deadline = time.monotonic() + 30
        while (told := asked(client))[0] != before + 20:
            assert time.monotonic() < deadline, told
            time.sleep(0.1)
        assert len(told[1]) >= 2


@pytest.mark.contract("W1")
def test_activity_is_summed_over_the_workers(two_workers):
    query = (
        "from django.db.models import Sum; from serving_app.activity_models import ActivityCount; "
        "rows = ActivityCount.objects.filter(user='active', context='{\"page\":\"home\"}'); "
        "print(rows.aggregate(n=Sum('count'))['n'])"
    )
    with two_workers.client() as client:
        for _ in range(30):
            question = {"user_id": "active", "context": {"page": "home"}}
            client.post("predict", json=question, headers={"Connection": "close"})
    servers.wait_for(
        lambda: manage(two_workers.var, "shell", "-v0", "-c", query).stdout.strip() == "30",
        what="both workers have written what they counted",
    )


@pytest.mark.contract("A7")
def test_metrics_cover_all_workers_and_never_fall(two_workers):
    def asked(client):
        """Return how many recommendations all processes counted, as one scrape says."""
        answer = client.get(f"{two_workers.url}/metrics", headers={"Connection": "close"})
        assert answer.status_code == 200
        return sum(
            sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if sample.name == "recserve_requests_total"
        )

    with two_workers.client() as client:
        begun = asked(client)
        seen = [begun]
        for n in range(60):
            question = {"user_id": f"counted-{n}"}
            client.post("predict", json=question, headers={"Connection": "close"})
            seen.append(asked(client))
        assert seen == sorted(seen), "a counter fell"
        # What the worker that does not answer counted is told within two seconds.
        servers.wait_for(lambda: asked(client) >= begun + 60, what="every request is counted")


@pytest.fixture
def own_model(two_workers):
    """A model that nobody else asks, live in both workers."""
    with two_workers.administrator() as client:
        known = client.get("models/popular/versions/1").json()
        taken = ("framework", "artifact", "catalogue", "feature_names", "feature_source")
        version = {name: known[name] for name in (*taken, "feature_source_options")}
        assert client.post("models", json={"name": "rolled"}).status_code == 201
        made = client.post("models/rolled/versions", json=version)
        assert made.status_code == 201, made.text
        client.post("models/rolled/promote", json={"version": 1})
        wanted = len(client.get("serving/stats").json()["processes"])
        servers.wait_for(
            lambda: (
                [a["state"] for a in client.get("models/rolled").json()["activations"]]
                == ["live"] * wanted
            ),
            what="it is live in all processes",
        )
        yield "rolled"
        assert client.delete("models/rolled").status_code in {204, 409}


@pytest.mark.contract("O4")
def test_rollups_of_both_workers_equal_what_was_asked(two_workers, own_model):
    def asked(n):
        with two_workers.client() as client:
            question = {"user_id": f"rolled-{n % 40}", "model_name": own_model}
            answer = client.post("predict", json=question)
            assert answer.status_code == 200, answer.text
            return answer.json()["source"]

    with two_workers.administrator() as client, ThreadPoolExecutor(8) as pool:
        sources = list(pool.map(asked, range(200)))
        misses = sources.count("model")

        def rolled_up():
            answer = client.get("analysis", params={"from": "1h", "model": own_model}).json()
            return answer if answer["total"].get("requests", 0) >= 200 else None

        found = servers.wait_for(rolled_up, 30, what="both workers have written their counts")
        total = found["total"]
        assert (total["requests"], total["hits"], total["misses"]) == (200, 200 - misses, misses)
        for name, sum_of_all in (("misses", misses), ("lookups", 200)):
            points = [point["value"] or 0 for point in found["trend"][name]]
            assert sum(points) == sum_of_all, "the sum over minutes is the total"
        stats = client.get("serving/stats").json()["models"][own_model]
        assert stats["requests"] == 200
        assert stats["latency_ms"]["p99"] == total["p99_ms"], "the same histogram"


@pytest.mark.contract("C10")
def test_every_worker_follows_who_belongs_to_which_segment(two_workers):
    busy = {"user_id": "busy", "explain": True}

    def segments(client):
        """Return in which segments the workers say that the user is."""
        answers = [
            client.post("predict", json=busy, headers={"Connection": "close"}).json()
            for _ in range(8)
        ]
        return {answer["explain"]["segment"] for answer in answers}

    with two_workers.administrator() as client:
        rule = [{"field": "requests", "comparison": "ge", "value": 5}]
        made = client.post("segments", json={"name": "power", "share": 0.2, "conditions": rule})
        assert made.status_code == 201, made.text
        try:
            assert segments(client) <= {"all", "power"}
            servers.wait_for(lambda: segments(client) == {"power"}, seconds=90, what="all follow")
            members = client.get("segments/power/members").json()["results"]
            assert "busy" in [row["user_id"] for row in members]
        finally:
            assert client.delete("segments/power").status_code == 204
        servers.wait_for(lambda: segments(client) == {"all"}, seconds=90, what="all follow back")
