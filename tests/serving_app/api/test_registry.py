import dataclasses

import pytest

from serving_app import wiring
from serving_app.models import ModelVersion, ServedModel
from tests.conftest import linear_draft

pytestmark = [pytest.mark.django_db, pytest.mark.contract("A4")]


@pytest.fixture
def administrator(client_as, fresh):
    return client_as("administer")


@pytest.fixture
def body(store):
    draft = dataclasses.asdict(linear_draft(store))
    return {**draft, "feature_names": list(draft["feature_names"])}


def post(client, path, body=None):
    return client.post(f"/api/v1/{path}", body or {}, format="json")


def test_from_an_empty_registry_to_a_recommendation_over_the_api_alone(administrator, body):
    assert post(administrator, "models", {"name": "shop"}).status_code == 201
    registered = post(administrator, "models/shop/versions", body)
    assert registered.status_code == 201, registered.content
    version = registered.json()
    assert (version["number"], version["live"], version["items"]) == (1, False, 20)
    assert len(version["sha256"]) == 64
    promoted = post(administrator, "models/shop/promote", {"version": 1, "wait_seconds": 0})
    assert promoted.json() == {"model": "shop", "live_version": 1, "live_here": False}
    wiring.get_serving().reconciler.reconcile()
    model = administrator.get("/api/v1/models/shop").json()
    assert model["live_version"] == 1
    assert model["activations"][0]["state"] == "live"
    question = {"user_id": "u", "model_name": "shop", "features": [1, 2, 3]}
    assert post(administrator, "predict", question).json()["model_version"] == 1


def test_a_version_that_fails_validation_is_422_and_not_there(administrator, body):
    post(administrator, "models", {"name": "shop"})
    response = post(administrator, "models/shop/versions", {**body, "artifact": "../x"})
    assert response.status_code == 422
    assert response.json()["code"] == "artifact-rejected"
    response = post(administrator, "models/shop/versions", {**body, "framework": "torch"})
    assert response.json()["code"] == "unknown-plugin"
    response = post(administrator, "models/shop/versions", {"framework": "numpy_linear"})
    assert {error["field"] for error in response.json()["errors"]} == {"artifact"}
    for missing, says in (("catalogue", "Give the catalogue"), ("feature_names", "Declare the f")):
        given = {name: value for name, value in body.items() if name != missing}
        response = post(administrator, "models/shop/versions", given)
        assert response.json()["code"] == "artifact-rejected"
        assert says in response.json()["detail"]
    assert not ModelVersion.objects.exists()


def test_rolling_back_returns_the_version_before(administrator, body):
    post(administrator, "models", {"name": "shop"})
    for number in (1, 2):
        post(administrator, "models/shop/versions", body)
        post(administrator, "models/shop/promote", {"version": number, "wait_seconds": 0})
    assert post(administrator, "models/shop/rollback").json()["live_version"] == 1
    history = administrator.get("/api/v1/models/shop/promotions").json()["results"]
    assert [(p["version"], p["replaced"], p["by"]) for p in history] == [
        (2, 1, "administer-user"),
        (1, None, "administer-user"),
    ]
    assert history[0]["rolled_back"] is not None
    nothing_left = post(administrator, "models/shop/rollback")
    assert nothing_left.status_code == 422
    assert "no earlier live version" in nothing_left.json()["detail"]


def test_lists_are_paged_filtered_ordered_and_searched(administrator, body):
    for name in ("b", "a", "c"):
        post(administrator, "models", {"name": name})
    listed = administrator.get("/api/v1/models?ordering=-name&page_size=2").json()
    assert (listed["count"], [m["name"] for m in listed["results"]]) == (3, ["c", "b"])
    found = administrator.get("/api/v1/models?search=a").json()["results"]
    assert [m["name"] for m in found] == ["a"]
    post(administrator, "models/a/versions", body)
    assert administrator.get("/api/v1/models/a/versions?framework=pytorch").json()["count"] == 0
    assert administrator.get("/api/v1/models/a/versions").json()["count"] == 1
    assert administrator.get("/api/v1/models/zzz/versions").status_code == 404


def test_a_model_is_changed_but_not_renamed_and_deleted(administrator, body):
    post(administrator, "models", {"name": "shop"})
    url = "/api/v1/models/shop"
    changed = administrator.patch(url, {"max_batch": 8}, format="json")
    assert changed.json()["max_batch"] == 8
    assert administrator.patch(url, {"name": "store"}, format="json").status_code == 422
    assert administrator.patch(url, {"max_batch": 0}, format="json").status_code == 422
    knobs = {"max_wait": 0.02, "headroom": 0.5, "timeout": 0.1}
    assert administrator.patch(url, knobs, format="json").json().items() >= knobs.items()
    for too_long in ({"max_wait": 0.05}, {"timeout": 0.04}, {"headroom": 0.1}):
        response = administrator.patch(url, too_long, format="json")
        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] == "max_wait"
        assert "Shorten the wait" in response.json()["detail"]
    for wrong in ({"max_wait": -1}, {"headroom": 0}, {"headroom": 1.5}):
        assert administrator.patch(url, wrong, format="json").status_code == 422
    for wrong in ({"executor": "in_proces"}, {"executor_options": {"instanzes": 2}}):
        response = administrator.patch(url, wrong, format="json")
        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] == next(iter(wrong))
        assert "id you mean" in response.json()["detail"]
    post(administrator, "models/shop/versions", body)
    post(administrator, "models/shop/promote", {"version": 1, "wait_seconds": 0})
    live = administrator.delete(f"{url}/versions/1")
    assert live.status_code == 409
    assert live.json()["code"] == "in-use"
    assert administrator.delete(url).status_code == 204
    assert not ServedModel.objects.exists()


def test_duplicate_and_unusable_names_are_refused(administrator):
    post(administrator, "models", {"name": "shop"})
    for name in ("shop", "a/b", "", "-x"):
        assert post(administrator, "models", {"name": name}).status_code == 422
    assert ServedModel.objects.count() == 1


def test_operators_read_administrators_change_others_neither(client_as, administrator, body):
    post(administrator, "models", {"name": "shop"})
    for role, read, write in (
        (None, 401, 401),
        ("predict", 403, 403),
        ("operate", 200, 403),
        ("administer", 200, 201),
    ):
        client = client_as(role)
        assert client.get("/api/v1/models").status_code == read
        assert post(client, "models", {"name": f"m-{role}"}).status_code == write


@pytest.mark.contract("S1")
def test_aliases_are_set_asked_for_and_taken_away(administrator, body):
    post(administrator, "models", {"name": "shop"})
    for _ in range(2):
        post(administrator, "models/shop/versions", body)
    post(administrator, "models/shop/promote", {"version": 1, "wait_seconds": 0})
    url = "/api/v1/models/shop/aliases"
    put = administrator.put(f"{url}/next", {"version": 2}, format="json")
    assert (put.status_code, put.json()["name"], put.json()["version"]) == (200, "next", 2)
    shadow = administrator.put(f"{url}/shadow", {"version": 2, "percent": 12.5}, format="json")
    assert shadow.json()["percent"] == 12.5
    listed = administrator.get(url).json()["results"]
    assert {(a["name"], a["version"]) for a in listed} == {
        ("production", 1),
        ("next", 2),
        ("shadow", 2),
    }
    assert administrator.get("/api/v1/models/shop").json()["aliases"] == listed
    wiring.get_serving().reconciler.reconcile()
    question = {"user_id": "u", "features": [1, 2, 3]}
    for name, version, alias in (
        ("shop", 1, "production"),
        ("shop@next", 2, "next"),
        ("shop@2", 2, None),
    ):
        answer = post(administrator, "predict", {**question, "model_name": name}).json()
        assert (answer["model_name"], answer["model_version"], answer["alias"]) == (
            "shop",
            version,
            alias,
        )
    assert post(administrator, "predict", {**question, "model_name": "shop@x"}).status_code == 404
    assert post(administrator, "predict", {**question, "model_name": "shop@9"}).status_code == 404
    assert post(administrator, "predict", {**question, "model_name": "shop@"}).status_code == 422
    assert administrator.delete(f"{url}/next").status_code == 204
    assert administrator.delete(f"{url}/next").status_code == 404
    assert administrator.delete(f"{url}/production").status_code == 422
    refused = administrator.put(f"{url}/canary", {"version": 2}, format="json")
    assert (refused.status_code, "roll-out" in refused.json()["detail"]) == (422, True)
    assert administrator.put(f"{url}/next", {"version": 9}, format="json").status_code == 404


@pytest.mark.contract("S14")
def test_a_roll_out_is_started_raised_aborted_and_promoted(administrator, client_as, body):
    post(administrator, "models", {"name": "shop"})
    for _ in range(2):
        post(administrator, "models/shop/versions", body)
    post(administrator, "models/shop/promote", {"version": 1, "wait_seconds": 0})
    url = "models/shop/rollouts"
    started = post(administrator, url, {"version": 2, "percents": [1, 10]})
    assert started.status_code == 201, started.content
    roll_out = started.json()
    assert {name: roll_out[name] for name in ("candidate", "production", "state", "percent")} == {
        "candidate": 2,
        "production": 1,
        "state": "running",
        "percent": 1.0,
    }
    own = f"{url}/{roll_out['id']}"
    assert post(administrator, f"{own}/raise").json()["percent"] == 10.0
    assert post(administrator, f"{own}/raise", {"percent": 0.5}).json()["percent"] == 0.5
    assert post(administrator, f"{own}/raise", {"percent": 200}).status_code == 422
    aborted = post(administrator, f"{own}/abort", {"reason": "Not now."}).json()
    assert (aborted["state"], aborted["percent"]) == ("aborted", 0.0)
    last = aborted["steps"][0]
    assert (last["action"], last["by"], last["reason"]) == (
        "aborted",
        "administer-user",
        "Not now.",
    )
    ended = post(administrator, f"{own}/promote")
    assert (ended.status_code, "has ended" in ended.json()["detail"]) == (422, True)
    again = post(administrator, url, {"version": 2, "percents": [5], "step_seconds": 60}).json()
    promoted = post(administrator, f"{url}/{again['id']}/promote").json()
    assert promoted["state"] == "promoted"
    assert administrator.get("/api/v1/models/shop").json()["live_version"] == 2
    operator = client_as("operate")
    listed = operator.get(f"/api/v1/{url}?state=aborted").json()
    assert [row["id"] for row in listed["results"]] == [roll_out["id"]]
    assert operator.get(f"/api/v1/{own}").json() == aborted
    for path in (url, f"{own}/raise", f"{own}/promote", f"{own}/abort"):
        assert post(operator, path, {"version": 2, "percents": [5]}).status_code == 403
    for wrong in ({"version": 1, "percents": []}, {"percents": [5]}, {"version": 1}):
        assert post(administrator, url, wrong).status_code == 422
    assert post(administrator, url, {"version": 9, "percents": [5]}).status_code == 404
    assert post(administrator, "models/none/rollouts", {}).status_code == 404


def test_what_belongs_to_a_model_has_no_filters_of_models(administrator):
    post(administrator, "models", {"name": "shop"})
    schema = administrator.get("/api/v1/schema?format=json").json()["paths"]
    for tail in ("promotions", "aliases"):
        parameters = schema[f"/api/v1/models/{{name}}/{tail}"]["get"]["parameters"]
        assert {each["name"] for each in parameters} == {"name", "page", "page_size"}
        path = f"/api/v1/models/shop/{tail}?executor=another&search=nothing"
        assert administrator.get(path).json()["results"] == []
    parameters = schema["/api/v1/models"]["get"]["parameters"]
    assert "executor" in {each["name"] for each in parameters}
