from urllib.parse import urlencode

import pytest
from django.utils import timezone

from cache_app.wiring import get_levels
from plugins import RecommendationRequest
from serving_app import process_statistics, registration, wiring
from serving_app.cache_statistics import cache_statistics
from serving_app.models import ProcessStatistics
from tests import servers
from tests.conftest import linear_draft

FEATURES = [1.0, 2.0, 3.0]


def ask(client, **body):
    return client.post(
        "/api/v1/predict", {"user_id": "u", "features": FEATURES, **body}, format="json"
    ).json()


@pytest.mark.contract("A3")
@pytest.mark.django_db
def test_health_goes_from_starting_to_ok(client_as, fresh, store):
    anonymous = client_as(None)
    assert anonymous.get("/api/v1/health/live").json() == {"status": "ok"}
    assert anonymous.get("/api/v1/health/ready").status_code == 503
    assert anonymous.get("/api/v1/health").json()["status"] == "degraded"
    wiring.get_serving().reconciler.reconcile()
    assert anonymous.get("/api/v1/health/ready").status_code == 200
    assert anonymous.get("/api/v1/health").json() == {
        "status": "ok",
        "ready": True,
        "database": "ok",
        "models_live": 0,
        "model_host": None,
        "cache": {"l1": "ok"},
    }


@pytest.mark.contract("C12")
@pytest.mark.xdist_group("redis")
def test_health_is_degraded_and_requests_go_on_while_redis_is_away(
    client_as, fresh, store, db, settings
):
    with servers.one() as redis:
        settings.RECSERVE = {
            **settings.RECSERVE,
            "CACHE": {"L2": {"BACKEND": "redis", "URL": f"redis://127.0.0.1:{redis.port}/0"}},
        }
        registration.promote(registration.register("default", linear_draft(store)))
        wiring.get_serving().reconciler.reconcile()
        operator = client_as("operate")
        assert ask(operator)["source"] == "model"
        get_levels()._levels[0].clear()
        assert ask(operator)["source"] == "l2"
        assert operator.get("/api/v1/health").json()["cache"] == {"l1": "ok", "l2": "ok"}
        redis.kill()
        for n in range(8):
            assert ask(operator, user_id=f"while away {n}")["source"] == "model"
        health = operator.get("/api/v1/health").json()
        assert (health["status"], health["cache"]["l1"]) == ("degraded", "ok")
        assert health["cache"]["l2"] in {"open", "half_open"}


@pytest.mark.contract("A3")
def test_health_is_degraded_while_a_wanted_version_is_not_live(client_as, live_model, store):
    operator = client_as("operate")
    assert operator.get("/api/v1/health").json()["models"] == {"default": {"live": 1, "wanted": 1}}
    registration.promote(registration.register("default", linear_draft(store, "two.npz", seed=2)))
    health = operator.get("/api/v1/health").json()
    assert health["status"] == "degraded"
    assert health["models"] == {"default": {"live": 1, "wanted": 2}}
    assert "models" not in client_as("predict").get("/api/v1/health").json()


@pytest.mark.contract("C12")
@pytest.mark.django_db
def test_health_says_that_a_file_of_l2_cannot_be_opened(
    client_as, fresh, store, settings, tmp_path
):
    (tmp_path / "cache").write_text("in the way of a folder")
    settings.RECSERVE = {
        **settings.RECSERVE,
        "CACHE": {"L2": {"BACKEND": "embedded", "PATH": str(tmp_path / "cache")}},
    }
    wiring.get_serving().reconciler.reconcile()
    health = client_as(None).get("/api/v1/health").json()
    assert (health["status"], health["cache"]) == ("degraded", {"l1": "ok", "l2": "away"})


@pytest.mark.contract("C7")
@pytest.mark.django_db
def test_cache_stats_are_summed_over_processes_but_shared_entries_are_not(client_as, live_model):
    operator = client_as("operate")
    for _ in range(3):
        ask(operator)
    levels = process_statistics.own_cache()
    row = ProcessStatistics(process="other", cache=levels)
    summed = process_statistics.cache_of_all(levels, [row])
    assert (summed["l1"]["hits"], summed["l1"]["entries"]) == (4, 2)
    shared = {"l2": {"hits": 5, "entries": 7, "away": True}}
    summed = process_statistics.cache_of_all(shared, [ProcessStatistics(cache=shared)])
    assert summed == {"l2": {"hits": 10, "entries": 7, "away": True}}
    ProcessStatistics.objects.create(
        process="other", seen=timezone.now(), serving={"nonsense": 1}, cache=levels
    )
    answer = operator.get("/api/v1/cache/stats").json()
    assert "other" in answer["processes"]
    assert answer["levels"]["l1"]["hits"] == 4
    assert operator.get("/api/v1/serving/stats").status_code == 200


@pytest.mark.contract("C11")
def test_a_question_that_was_refused_is_refused_out_of_the_cache_where_asked_for(
    settings, client_as, fresh, store, db
):
    settings.RECSERVE = {**settings.RECSERVE, "CACHE": {"NEGATIVE_TTL": 60}}
    registration.promote(registration.register("default", linear_draft(store)))
    wiring.get_serving().reconciler.reconcile()
    operator = client_as("operate")
    problems = [ask(operator, features=None) for _ in range(2)]
    assert len({problem.pop("request_id") for problem in problems}) == 2
    assert [problem.pop("source", None) for problem in problems] == [None, "negative"]
    assert problems[0] == problems[1]
    assert problems[0]["code"] == "invalid-input"


@pytest.mark.contract("S10")
def test_serving_stats_count_requests_batches_and_latencies(client_as, live_model):
    operator = client_as("operate")
    for _ in range(3):
        ask(operator)
    ask(operator, features=[1])
    stats = operator.get("/api/v1/serving/stats").json()["models"]["default"]
    assert stats["requests"] == 4
    assert stats["by_source"] == {"model": 1, "l1": 2}
    assert stats["errors"] == {"InvalidInput": 1}
    assert stats["latency_ms"]["count"] == 4
    assert stats["latency_ms"]["p50"] <= stats["latency_ms"]["p99"]
    version = stats["versions"]["1"]
    assert (version["framework"], version["processes"]) == ("numpy_linear", 1)
    assert version["batch_sizes"] == {"1": 1}
    assert version["model_ms"]["count"] == version["total_ms"]["count"] == 1
    assert (version["rejected"], version["rejected_by"], version["cancelled"]) == (0, {}, 0)
    assert set(version["cost_ms"]) == {"per_batch", "per_row"}
    assert (version["pool"]["instances"], version["pool"]["stuck"]) == (1, 0)


def test_rubbish_names_do_not_grow_the_statistics(client_as, live_model):
    operator = client_as("operate")
    for n in range(20):
        ask(operator, model_name=f"rubbish-{n}")
    assert set(operator.get("/api/v1/serving/stats").json()["models"]) == {"default"}


@pytest.mark.contract("C7")
def test_cache_stats_count_hits_and_misses(client_as, live_model):
    operator = client_as("operate")
    for _ in range(4):
        ask(operator)
    l1 = operator.get("/api/v1/cache/stats").json()["levels"]["l1"]
    assert (l1["hits"], l1["misses"], l1["entries"]) == (3, 1, 1)
    assert l1["hit_rate"] == 0.75


@pytest.mark.contract("C7")
def test_cache_stats_are_by_model_and_segment_and_summed_over_processes(
    client_as, live_model, store
):
    registration.promote(registration.register("other", linear_draft(store, "other.npz")))
    wiring.get_serving().reconciler.reconcile()
    operator = client_as("operate")
    for _ in range(3):
        ask(operator)
    ask(operator, model_name="other")
    serving = wiring.get_serving()
    told = process_statistics.own(serving.live, serving.recommender).as_json()
    ProcessStatistics.objects.create(
        process="twin", seen=timezone.now(), serving=told, cache=process_statistics.own_cache()
    )
    stats = operator.get("/api/v1/cache/stats").json()
    counted = {"hits": 4, "misses": 2, "negative": 0, "by_level": {"l1": 4}}
    counted["hit_rate"] = pytest.approx(4 / 6)
    assert stats["models"]["default"] == {**counted, "segments": {"all": counted}}
    assert stats["models"]["other"]["misses"] == 2
    levels = [sum(model[what] for model in stats["models"].values()) for what in ("hits", "misses")]
    assert levels == [stats["levels"]["l1"]["hits"], stats["levels"]["l1"]["misses"]]
    assert stats["namespace"] == "recserve"
    assert stats["negative"] == {"entries": 0, "hits": 0, "insertions": 0, "evictions": 0}
    assert stats["leases"] is None
    assert cache_statistics() == operator.get("/api/v1/cache/stats").json()
    one = operator.get("/api/v1/cache/stats?model=other").json()
    assert set(one["models"]) == {"other"}
    assert cache_statistics("other") == one


@pytest.mark.contract("C7")
def test_cache_stats_of_a_model_that_nobody_asked_and_of_none(client_as, live_model):
    operator = client_as("operate")
    nothing = {"hits": 0, "misses": 0, "negative": 0, "hit_rate": None, "by_level": {}}
    stats = operator.get("/api/v1/cache/stats?model=default").json()
    assert stats["models"] == {"default": {**nothing, "segments": {}}}
    unknown = operator.get("/api/v1/cache/stats?model=nowhere")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "model-not-found")
    typo = operator.get("/api/v1/cache/stats?modle=default")
    assert (typo.status_code, typo.json()["errors"][0]["field"]) == (422, "modle")


@pytest.mark.contract("C7")
@pytest.mark.xdist_group("redis")
def test_cache_stats_count_errors_of_leases(client_as, fresh, store, db, settings):
    with servers.one() as redis:
        settings.RECSERVE = {
            **settings.RECSERVE,
            "CACHE": {"L2": {"BACKEND": "redis", "URL": f"redis://127.0.0.1:{redis.port}/0"}},
        }
        registration.promote(registration.register("default", linear_draft(store)))
        wiring.get_serving().reconciler.reconcile()
        operator = client_as("operate")
        assert ask(operator)["source"] == "model"
        leases = operator.get("/api/v1/cache/stats").json()["leases"]
        assert leases == {"waiting": 0, "errors": 0, "without": 0}
        redis.kill()
        for n in range(8):
            assert ask(operator, user_id=f"while away {n}")["source"] == "model"
        leases = operator.get("/api/v1/cache/stats").json()["leases"]
        assert leases["errors"] > 0
        assert leases["without"] == 1


@pytest.mark.contract("A3")
@pytest.mark.parametrize(
    ("query", "left"),
    [
        ({"user_id": "1"}, {"2@default", "2@other"}),
        ({"model_name": "other"}, {"1@default", "2@default"}),
        ({"user_id": "1", "model_name": "other"}, {"1@default", "2@default", "2@other"}),
        ({"all": "true"}, set()),
    ],
)
def test_clearing_forgets_a_user_a_model_or_all(client_as, live_model, store, query, left):
    registration.promote(registration.register("other", linear_draft(store, "other.npz")))
    wiring.get_serving().reconciler.reconcile()
    operator = client_as("operate")
    pairs = [(user, model) for user in ("1", "2") for model in ("default", "other")]
    for user, model in pairs:
        ask(operator, user_id=user, model_name=model)
    response = operator.delete(f"/api/v1/cache/clear?{urlencode(query)}")
    assert response.status_code == 200
    assert response.json()["removed"] == 4 - len(left)
    cached = {
        f"{user}@{model}"
        for user, model in pairs
        if ask(operator, user_id=user, model_name=model)["cached"]
    }
    assert cached == left


@pytest.mark.contract("A3")
def test_a_number_and_its_text_are_one_user_to_clear(client_as, live_model):
    operator = client_as("operate")
    ask(operator, user_id=7)
    ask(operator, user_id="7")
    assert operator.delete("/api/v1/cache/clear?user_id=7").json()["removed"] == 2


@pytest.mark.contract("A3")
@pytest.mark.parametrize("query", ["", "?all=yes", "?user=7", "?user_id="])
def test_clearing_without_saying_what_is_refused(client_as, live_model, query):
    operator = client_as("operate")
    ask(operator)
    assert operator.delete(f"/api/v1/cache/clear{query}").status_code == 422
    assert get_levels().stats()["l1"].entries == 1


def invalidate(client, **body):
    return client.post("/api/v1/cache/invalidate", body, format="json")


QUESTIONS = {
    "plain": {"user_id": "1"},
    "tagged": {"user_id": "1", "context": {"tags": ["sale", "home"]}},
    "number": {"user_id": 1, "context": {"page": 2}},
    "second": {"user_id": "2", "context": {"tags": ["home"]}},
    "other": {"user_id": "2", "model_name": "other"},
}


@pytest.mark.contract("C8")
@pytest.mark.contract("A3")
@pytest.mark.parametrize(
    ("body", "forgotten"),
    [
        ({"user_id": "1"}, {"plain", "tagged", "number"}),
        ({"user_id": 2}, {"second", "other"}),
        ({"model_name": "other"}, {"other"}),
        ({"model_name": "default", "user_id": "2"}, {"second"}),
        ({"model_name": "default", "version": 1}, {"plain", "tagged", "number", "second"}),
        ({"model_name": "default", "version": 2}, set()),
        ({"tag": "sale"}, {"tagged"}),
        ({"tag": "home"}, {"tagged", "second"}),
        ({"tag": "1"}, set()),
        ({"segment": "all"}, set(QUESTIONS)),
        ({"segment": "new"}, set()),
        ({"question": {"user_id": "1", "features": FEATURES}}, {"plain"}),
        ({"question": {"user_id": "1"}}, set()),  # another question: features from a source
        ({"question": {**QUESTIONS["number"], "features": FEATURES}}, {"number"}),
        ({"all": True}, set(QUESTIONS)),
        ({"scopes": [{"tag": "sale"}, {"model_name": "other"}]}, {"tagged", "other"}),
        ({"scopes": [{"all": True}, {"tag": "sale"}]}, set(QUESTIONS)),
    ],
)
def test_invalidating_forgets_exactly_what_is_named(client_as, live_model, store, body, forgotten):
    registration.promote(registration.register("other", linear_draft(store, "other.npz")))
    wiring.get_serving().reconciler.reconcile()
    operator = client_as("operate")
    for question in QUESTIONS.values():
        ask(operator, **question)
    response = invalidate(operator, **body)
    assert response.status_code == 200, response.json()
    told = response.json()
    assert told["invalidated"] == body.get("scopes", [body])
    assert told["epoch"] > 0
    assert told["bound_seconds"] == {"this_host": 1.0, "other_hosts": 1.0}
    wiring.get_serving().reconciler.reconcile()
    cached = {name for name, each in QUESTIONS.items() if ask(operator, **each)["cached"]}
    assert cached == set(QUESTIONS) - forgotten
    assert all(ask(operator, **each)["cached"] for each in QUESTIONS.values())


@pytest.mark.contract("C8")
def test_a_key_names_one_entry(client_as, live_model):
    operator = client_as("operate")
    for question in ({"user_id": "1"}, {"user_id": "2"}):
        ask(operator, **question)
    request = RecommendationRequest("1", features=FEATURES)
    key = wiring.get_recommender().key(request)
    assert get_levels().find(key) is not None
    assert invalidate(operator, key=key).status_code == 200
    wiring.get_serving().reconciler.reconcile()
    assert wiring.get_recommender().key(request) != key
    assert ask(operator, user_id="1")["cached"] is False
    assert ask(operator, user_id="2")["cached"] is True


@pytest.mark.contract("C8")
@pytest.mark.contract("A5")
@pytest.mark.parametrize(
    ("body", "status", "field", "says"),
    [
        ([], 422, "", "as a JSON object"),
        ({}, 422, "", "Say what to forget"),
        ({"all": False}, 422, "all", "must be true"),
        ({"all": True, "tag": "x"}, 422, "all", "alone"),
        ({"user": "7"}, 422, "user", "Did you mean user_id?"),
        ({"user_id": ""}, 422, "user_id", "1 to 256"),
        ({"user_id": True}, 422, "user_id", "whole number"),
        ({"version": 1}, 422, "version", "with its model"),
        ({"model_name": "m", "version": "1"}, 422, "version", "above 0"),
        ({"model_name": 7}, 422, "model_name", "a string"),
        ({"tag": "x", "segment": "y"}, 422, "tag", "alone"),
        ({"tag": "a" * 101}, 422, "tag", "1 to 100"),
        ({"key": "rubbish"}, 422, "key", "A key reads"),
        ({"model_name": "m" * 500}, 422, "", "longer than any"),
        ({"scopes": []}, 422, "scopes", "1 to 100"),
        ({"scopes": "all"}, 422, "scopes", "1 to 100"),
        ({"scopes": [{"tag": "x"}] * 101}, 422, "scopes", "1 to 100"),
        ({"scopes": [{"tag": "x"}, 7]}, 422, "scopes[1]", "JSON object"),
        ({"scopes": [{"tag": "x"}, {}]}, 422, "scopes[1]", "Say what"),
        ({"scopes": [{"tag": 7}]}, 422, "scopes[0].tag", "a string"),
        ({"scopes": [{"tag": "x"}], "all": True}, 422, "all", "stands alone"),
        ({"question": "who"}, 422, "question", "as for /predict"),
        ({"question": {}}, 422, "question.user_id", "missing"),
        ({"question": {"user_id": "1", "k": 3}}, 422, "question.k", "no other one"),
        ({"question": {"user_id": "1", "context": {"tags": 7}}}, 422, "context.tags", "list"),
        ({"question": {"user_id": "1", "features": [1]}}, 422, "features", "3: age"),
        ({"question": {"user_id": "1", "model_name": "nowhere"}}, 404, None, "nowhere"),
    ],
)
def test_what_names_no_scope_is_refused_and_nothing_is_forgotten(
    client_as, live_model, body, status, field, says
):
    operator = client_as("operate")
    ask(operator)
    response = operator.post("/api/v1/cache/invalidate", body, format="json")
    assert response.status_code == status
    problem = response.json()
    assert says in problem["detail"]
    if field is not None:
        assert problem["errors"][0]["field"] == field
    wiring.get_serving().reconciler.reconcile()
    assert ask(operator)["cached"] is True


@pytest.mark.contract("C8")
def test_tags_that_are_none_are_refused_when_asking(client_as, live_model):
    response = client_as("predict").post(
        "/api/v1/predict",
        {"user_id": "u", "features": FEATURES, "context": {"tags": "sale"}},
        format="json",
    )
    assert (response.status_code, response.json()["code"]) == (422, "invalid-input")
    assert response.json()["errors"][0]["field"] == "context.tags"


@pytest.mark.contract("A5")
@pytest.mark.parametrize(
    ("method", "path"),
    [("get", "serving/stats"), ("get", "cache/stats"), ("delete", "cache/clear?all=true")],
)
def test_operation_needs_the_operate_role(client_as, live_model, method, path):
    for role, status in ((None, 401), ("predict", 403), ("operate", 200), ("administer", 200)):
        assert invalidate(client_as(role), all=True).status_code == status
    for role, status in ((None, 401), ("predict", 403), ("operate", 200), ("administer", 200)):
        assert getattr(client_as(role), method)(f"/api/v1/{path}").status_code == status


@pytest.mark.contract("A5")
@pytest.mark.django_db
def test_a_token_is_got_with_username_and_password_and_refreshed(client_as, django_user_model):
    django_user_model.objects.create_user("ann", password="s3cret-enough")
    anonymous = client_as(None)
    wrong = anonymous.post("/api/v1/token", {"username": "ann", "password": "x"}, format="json")
    assert wrong.status_code == 401
    assert wrong["Content-Type"] == "application/problem+json"
    missing = anonymous.post("/api/v1/token", {"username": "ann"}, format="json")
    assert missing.status_code == 422
    assert missing.json()["errors"][0]["field"] == "password"
    pair = anonymous.post(
        "/api/v1/token", {"username": "ann", "password": "s3cret-enough"}, format="json"
    ).json()
    renewed = anonymous.post("/api/v1/token/refresh", {"refresh": pair["refresh"]}, format="json")
    assert renewed.json()["access"]


@pytest.mark.contract("A5")
@pytest.mark.django_db
def test_the_schema_and_its_page_are_served_without_other_hosts(client_as):
    anonymous = client_as(None)
    schema = anonymous.get("/api/v1/schema?format=json")
    assert schema.status_code == 200
    assert "/api/v1/predict/batch" in schema.json()["paths"]
    page = anonymous.get("/api/v1/docs", HTTP_ACCEPT="text/html").content.decode()
    assert "swagger-ui" in page
    assert "http://" not in page
    assert "https://" not in page
