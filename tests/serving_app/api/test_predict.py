import json

import pytest

from serving_app import wiring
from serving_app.models import ServedModel
from tests.conftest import expected_ranking

URL = "/api/v1/predict"
BATCH = "/api/v1/predict/batch"
FEATURES = {"age": 1.0, "visits": -2.0, "spend": 0.5}


@pytest.fixture
def client(client_as, live_model):
    return client_as("predict")


def ask(client, url=URL, **body):
    return client.post(url, {"user_id": "u1", "features": FEATURES, **body}, format="json")


@pytest.mark.contract("A1")
def test_the_answer_has_the_best_items_and_says_where_it_came_from(client, store):
    response = ask(client, k=5, titles=True)
    assert response.status_code == 200
    answer = response.json()
    best = expected_ranking(store, "linear.npz", [1.0, -2.0, 0.5])[:5]
    assert answer["recommendations"] == best
    assert answer["titles"] == [f"Item number {item[1:]}" for item in best]
    assert answer["scores"] == sorted(answer["scores"], reverse=True)
    assert answer["latency_ms"] > 0
    assert {
        k: answer[k] for k in ("user_id", "model_name", "model_version", "cached", "source")
    } == {
        "user_id": "u1",
        "model_name": "default",
        "model_version": 1,
        "cached": False,
        "source": "model",
    }


@pytest.mark.contract("A1")
def test_the_second_answer_is_cached_and_equal_whatever_the_k(client):
    first = ask(client, k=10).json()
    second = ask(client, k=3).json()
    assert (second["cached"], second["source"]) == (True, "l1")
    assert second["recommendations"] == first["recommendations"][:3]
    assert second["scores"] == first["scores"][:3]


@pytest.mark.contract("S8")
def test_exclusions_apply_before_the_cut(client, store):
    best = expected_ranking(store, "linear.npz", [1.0, -2.0, 0.5])
    answer = ask(client, k=4, exclude=[best[0], best[2], "unheard-of"]).json()
    assert answer["recommendations"] == [best[1], best[3], best[4], best[5]]


def test_a_k_beyond_the_catalogue_gets_the_whole_catalogue(client, store):
    answer = ask(client, k=1000).json()
    assert answer["recommendations"] == expected_ranking(store, "linear.npz", [1.0, -2.0, 0.5])


@pytest.mark.contract("S7")
def test_named_features_and_a_list_are_the_same_question(client):
    first = ask(client).json()
    second = ask(client, features=[1.0, -2.0, 0.5]).json()
    assert second["recommendations"] == first["recommendations"]
    assert second["cached"] is True


@pytest.mark.contract("C4")
def test_users_contexts_and_features_do_not_share_answers_but_key_order_does_not_matter(client):
    assert ask(client, context={"page": 1, "ab": "x"}).json()["cached"] is False
    assert ask(client, context={"ab": "x", "page": 1}).json()["cached"] is True
    assert ask(client, context={"ab": "x", "page": "1"}).json()["cached"] is False
    assert ask(client, user_id="u2", context={"ab": "x", "page": 1}).json()["cached"] is False
    assert ask(client, features=[1, 2, 3]).json()["cached"] is False
    assert ask(client, user_id=1).json()["cached"] is False
    assert ask(client, user_id="1").json()["cached"] is False


@pytest.mark.contract("S7")
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"features": {"age": 1, "visits": 2}}, "features.spend"),
        ({"features": {**FEATURES, "hat": 1}}, "features.hat"),
        ({"features": [1, 2]}, "features"),
        ({"features": {**FEATURES, "age": "old"}}, "features.age"),
        ({"features": {**FEATURES, "age": 1e39}}, "features.age"),
        ({"features": 7}, "features"),
        ({"features": None}, "features"),
        ({"k": 0}, "k"),
        ({"k": 1001}, "k"),
        ({"k": "5"}, "k"),
        ({"k": True}, "k"),
        ({"exclude": "i1"}, "exclude"),
        ({"exclude": [["i1"]]}, "exclude[0]"),
        ({"exclude": ["x"] * 1001}, "exclude"),
        ({"context": [1]}, "context"),
        ({"context": {"a": {"b": {"c": {"d": {"e": {}}}}}}}, "context"),
        ({"context": {"a": "x" * 9000}}, "context"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": None}, "user_id"),
        ({"user_id": 1.5}, "user_id"),
        ({"user_id": "x" * 257}, "user_id"),
        ({"user_id": "a\u0000b"}, "user_id"),
        ({"model_name": 5}, "model_name"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"titles": "yes"}, "titles"),
        ({"modelname": "x"}, "modelname"),
    ],
)
def test_bad_input_is_422_naming_the_field(client, change, field):
    response = ask(client, **change)
    assert response.status_code == 422, response.content
    problem = response.json()
    assert response["Content-Type"] == "application/problem+json"
    assert problem["code"] == "invalid-input"
    assert problem["errors"][0]["field"] == field
    assert problem["detail"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_never_reach_the_model(client, number):
    body = json.dumps({"user_id": "u", "features": FEATURES}).replace("0.5", number)
    response = client.post(URL, body, content_type="application/json")
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "features.spend"
    batch = client.post(BATCH, f'{{"requests": [{body}]}}', content_type="application/json")
    assert batch.json()["results"][0]["errors"][0]["field"] == "features.spend"


@pytest.mark.parametrize("field", ["k", "user_id", "timeout_ms", "context", "exclude"])
def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(client, field):
    value = {"context": '{"x": NaN}', "exclude": "[NaN]"}.get(field, "NaN")
    body = json.dumps({"user_id": "u", "features": FEATURES})[:-1] + f', "{field}": {value}}}'
    response = client.post(URL, body, content_type="application/json")
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"].startswith(field)


def test_a_hit_hides_no_bad_features(client):
    ask(client)
    assert ask(client, features={**FEATURES, "hat": 1}).status_code == 422


@pytest.mark.parametrize(
    "body", [b" ", b"{", b"[1, 2", b"\xff\xfe", b"[" * 100_000, b'{"user_id": 1} x']
)
def test_what_is_no_json_is_400(client, body):
    response = client.post(URL, body, content_type="application/json")
    assert response.status_code == 400, response.content
    assert response.json()["code"] == "parse-error"


@pytest.mark.parametrize("body", [[], "text", 5, None])
def test_json_that_is_no_object_is_422(client, body):
    response = client.post(URL, json.dumps(body), content_type="application/json")
    assert response.status_code == 422


def test_a_body_over_the_limit_is_413(client):
    body = json.dumps({"user_id": "u", "context": {"x": "y" * 1_000_001}})
    response = client.post(URL, body, content_type="application/json")
    assert response.status_code == 413
    assert response.json()["code"] == "body-too-large"


def test_another_content_type_is_415(client):
    response = client.post(URL, "user_id=1", content_type="text/plain")
    assert response.status_code == 415
    assert response["Content-Type"] == "application/problem+json"


@pytest.mark.contract("A1")
def test_an_unknown_model_is_404_and_one_that_is_not_live_503(client):
    assert ask(client, model_name="nope").status_code == 404
    ServedModel.objects.create(name="sleeping")
    response = ask(client, model_name="sleeping")
    assert response.status_code == 503
    assert response.json()["code"] == "model-not-ready"
    assert int(response["Retry-After"]) >= 1


@pytest.mark.contract("A5")
@pytest.mark.django_db
def test_without_a_token_401_without_the_permission_403(client_as):
    anonymous = ask(client_as(None))
    assert anonymous.status_code == 401
    assert anonymous["WWW-Authenticate"].startswith("Bearer")
    assert anonymous.json()["code"] == "not-authenticated"
    assert ask(client_as("nobody")).status_code == 403


@pytest.mark.contract("A5")
@pytest.mark.django_db
def test_expired_forged_and_foreign_tokens_are_401(client_as, django_user_model):
    from datetime import timedelta

    import jwt
    from rest_framework.test import APIClient
    from rest_framework_simplejwt.tokens import AccessToken, RefreshToken

    user = django_user_model.objects.create_user("u")
    expired = AccessToken.for_user(user)
    expired.set_exp(lifetime=-timedelta(seconds=1))
    claims = AccessToken.for_user(user).payload
    unsigned = jwt.encode(claims, "", algorithm="none")
    foreign = jwt.encode(claims, "another key of enough length for HS256", algorithm="HS256")
    for token in (expired, unsigned, foreign, RefreshToken.for_user(user), "rubbish"):
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
        response = ask(client)
        assert response.status_code == 401, token
        assert response["Content-Type"] == "application/problem+json"


@pytest.mark.contract("A2")
def test_a_batch_answers_each_request_in_its_place_and_as_alone(client):
    alone = ask(client, user_id="a").json()
    requests = [
        {"user_id": "a", "features": FEATURES},
        {"user_id": "b", "features": [1, 2]},
        {"user_id": "c", "features": [3, 2, 1], "k": 2, "titles": True},
        {"user_id": "d", "features": FEATURES, "model_name": "nope"},
        "rubbish",
    ]
    response = client.post(BATCH, {"requests": requests, "batch_id": "b-7"}, format="json")
    assert response.status_code == 200
    body = response.json()
    assert (body["batch_id"], body["batch_size"]) == ("b-7", 5)
    assert body["total_latency_ms"] > 0
    hit, short, fine, unknown, rubbish = body["results"]
    assert hit["cached"] is True
    assert hit["recommendations"] == alone["recommendations"]
    assert (short["status"], short["errors"][0]["field"]) == (422, "features")
    assert len(fine["recommendations"]) == len(fine["titles"]) == 2
    assert unknown["status"] == 404
    assert rubbish["status"] == 422
    again = ask(client, user_id="c", features=[3, 2, 1], k=2).json()
    assert again["cached"] is True
    assert again["recommendations"] == fine["recommendations"]
    assert again["scores"] == fine["scores"]


@pytest.mark.contract("S4")
def test_the_misses_of_a_batch_share_the_models_batches(client):
    requests = [{"user_id": n, "features": [n, 1, 1]} for n in range(40)]
    body = client.post(BATCH, {"requests": requests}, format="json").json()
    singles = [
        ask(client, user_id=f"s{n}", features=[n, 1, 1]).json()["recommendations"]
        for n in range(40)
    ]
    assert [r["recommendations"] for r in body["results"]] == singles
    assert body["batch_id"]
    stats = wiring.get_serving().live.live()["default"].stats()
    assert stats.submitted == 80
    assert stats.batches < 80


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "requests"),
        ({"requests": {}}, "requests"),
        ({"requests": []}, "requests"),
        ({"requests": [{}] * 257}, "requests"),
        ({"requests": [{}], "batch_id": 5}, "batch_id"),
        ({"requests": [{}], "extra": 5}, "extra"),
    ],
)
def test_what_is_no_batch_is_422(client, body, field):
    response = client.post(BATCH, body, format="json")
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == field


@pytest.mark.contract("A5")
@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api/v1/predict/", "/api/v1/"])
def test_an_unknown_path_is_a_404_problem(client, path):
    response = client.get(path)
    assert response.status_code == 404
    assert response["Content-Type"] == "application/problem+json"


def test_a_wrong_method_is_a_405_problem(client):
    response = client.get(URL)
    assert response.status_code == 405
    assert response.json()["code"] == "method-not-allowed"
