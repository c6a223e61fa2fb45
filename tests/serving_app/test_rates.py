"""Throttles at the door, and over processes in a real Redis."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from cache_app.core.breaker import Breaker
from cache_app.redis_rates import RedisRates
from cache_app.redis_servers import OneServer
from plugins import Throttled
from serving_app import access, rates
from serving_app.core.access import Access
from serving_app.core.throttling import LocalRates
from tests import servers
from tests.fakes import FakeClock

pytestmark = pytest.mark.contract("A5")

QUESTION = {"user_id": "u", "features": [1.0, 2.0, 3.0]}
WHO = Access("user:1", frozenset({"predict"}))


@pytest.fixture(autouse=True)
def nobody_has_asked():
    rates.reset()
    yield
    rates.reset()


def throttled(settings, cache=None, **by_scope):
    settings.RECSERVE = {**settings.RECSERVE, "ACCESS": {"THROTTLES": by_scope}}
    if cache:
        settings.RECSERVE = {**settings.RECSERVE, "CACHE": {"L2": cache}}


def predict(client, **more):
    return client.post("/api/v1/predict", {**QUESTION, **more}, format="json")


def test_predicting_has_no_limit_unless_one_is_set(client_as, live_model):
    assert rates.limit(WHO, "predict") is None
    client = client_as("predict")
    assert {predict(client).status_code for _ in range(100)} == {200}


def test_a_user_who_asks_too_often_gets_429_and_the_truth(client_as, live_model, settings):
    throttled(settings, predict="3/h")
    client = client_as("predict")
    assert [predict(client).status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = predict(client)
    problem = refused.json()
    assert problem["code"] == "throttled"
    assert refused["Content-Type"] == "application/problem+json"
    assert int(refused["Retry-After"]) == problem["retry_after"]
    assert 1190 < problem["retry_after"] <= 1200
    assert predict(client_as("operate")).status_code == 200, "another user is not concerned"


def test_a_batch_counts_for_what_it_holds(client_as, live_model, settings):
    throttled(settings, predict="5/h")
    client = client_as("predict")
    batch = {"requests": [QUESTION] * 3}
    assert client.post("/api/v1/predict/batch", batch, format="json").status_code == 200
    refused = client.post("/api/v1/predict/batch", batch, format="json")
    assert refused.status_code == 429
    assert 710 < refused.json()["retry_after"] <= 720


def test_a_batch_above_the_rate_is_as_much_as_all_of_it(client_as, live_model, settings):
    throttled(settings, predict="5/h")
    client = client_as("predict")
    batch = {"requests": [QUESTION] * 9}
    assert client.post("/api/v1/predict/batch", batch, format="json").status_code == 200
    assert predict(client).status_code == 429


def test_roles_have_rates_of_their_own(settings):
    throttled(settings, predict={"predict": "1/h", "operate": None})
    rates.check(WHO, "predict")
    with pytest.raises(Throttled):
        rates.check(WHO, "predict")
    operator = Access("user:2", frozenset({"predict", "operate"}))
    assert rates.limit(operator, "predict") is None
    assert rates.limit(Access("user:3", frozenset({"administer"})), "predict") is None


def test_each_scope_counts_for_itself(client_as, live_model, settings):
    throttled(settings, operate="1/h", administer="1/h")
    client = client_as("administer")
    assert client.get("/api/v1/models").status_code == 200
    assert client.get("/api/v1/models").status_code == 429
    assert client.delete("/api/v1/models/nope").status_code == 404
    assert client.delete("/api/v1/models/nope").status_code == 429
    assert predict(client).status_code == 200
    assert client.get("/api/v1/health").status_code == 200


@pytest.mark.django_db
def test_passwords_cannot_be_tried_one_after_the_other(client_as, settings):
    throttled(settings, sign_in="2/h")
    client = client_as(None)

    def attempt(name):
        body = {"username": name, "password": "x"}
        return client.post("/api/v1/token", body, format="json").status_code

    assert [attempt("ann") for _ in range(3)] == [401, 401, 429]
    assert attempt("bob") == 401
    assert client.post("/api/v1/token", ["x"], format="json").status_code == 422


@pytest.mark.xdist_group("redis")
def test_processes_that_share_a_redis_count_together():
    with servers.one() as redis:
        processes = [
            RedisRates(OneServer("rates", redis.url, timeout=2.0), "test") for _ in range(4)
        ]
        one = {"interval": 36.0, "requests": 100}

        def ask(n):
            return processes[n % 4].take("a", **one)

        with ThreadPoolExecutor(8) as pool:
            waits = list(pool.map(ask, range(200)))
        assert waits.count(0.0) == 100
        assert all(35.0 < wait <= 36.0 for wait in waits if wait)
        assert processes[0].take("b", **one) == 0.0
        redis.client.script_flush()
        assert processes[0].take("b", **one) == 0.0, "Redis was started anew"
        assert 0 < redis.client.pttl(b"rs-rate:test:b") <= 72_001
        for process in processes:
            process.close()


@pytest.mark.xdist_group("redis")
def test_redis_and_process_agree():
    with servers.one() as redis:
        shared = RedisRates(OneServer("rates", redis.url, timeout=2.0), "test")
        clock = FakeClock()
        local = LocalRates(clock=clock)
        from serving_app.core.throttling import Rate

        for cost in (1, 3, 2, 9, 1, 5, 1):
            rate = Rate(10, 36000.0)
            theirs = shared.take("a", interval=rate.interval, requests=10, cost=cost)
            assert math.isclose(theirs, local.take("a", rate, cost), abs_tol=5.0), cost
        shared.close()


@pytest.mark.contract("C12")
@pytest.mark.xdist_group("redis")
def test_a_redis_that_dies_refuses_nobody_and_each_process_counts(client_as, live_model, settings):
    with servers.one() as redis:
        throttled(settings, {"BACKEND": "redis", "URL": redis.url}, predict="3/h")
        assert rates.shared()
        client = client_as("predict")
        assert [predict(client).status_code for _ in range(4)] == [200, 200, 200, 429]
        redis.kill()
        statuses = [predict(client).status_code for _ in range(8)]
        assert statuses[:3] == [200, 200, 200]
        assert set(statuses[3:]) == {429}


@pytest.mark.xdist_group("redis")
def test_a_redis_that_has_something_else_there_refuses_nobody():
    with servers.one() as redis:
        shared = RedisRates(OneServer("rates", redis.url, timeout=2.0), "test", Breaker())
        redis.client.lpush("rs-rate:test:a", "x")
        assert shared.take("a", interval=1.0, requests=1) is None
        redis.client.set("rs-rate:test:b", "rubbish")
        assert shared.take("b", interval=1.0, requests=1) is None
        shared.close()


def test_service_tokens_count_by_token(client_as, live_model, settings):
    throttled(settings, predict="1/h")
    for _ in range(2):
        _, text = access.create_token("shop", role="predict")
        client = client_as(None)
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
        assert [predict(client).status_code for _ in range(2)] == [200, 429]
