"""The dashboard's page, its JSON and its stream."""

import asyncio
import json
import signal
import time

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group
from django.db import DatabaseError
from django.utils import timezone

from plugins import RecommendationRequest
from recserve_project import dashboard, streams
from serving_app import process_statistics, rollup_writer, wiring
from serving_app.alert_models import Alert, AlertRule
from serving_app.core.rollups import Series
from serving_app.reconciler import process_name
from serving_app.warmup_models import WarmupRun

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.contract("O2"),
    pytest.mark.usefixtures("connection_of_the_test"),
]

PAGE = "/admin/dashboard/"
DATA = f"{PAGE}data/"
STREAM = f"{PAGE}stream/"


@pytest.fixture
def person(client, async_client, django_user_model):
    """Signs somebody in with a role; both clients are theirs."""

    def person(role, *, staff=True):
        user = django_user_model.objects.create_user(role, password="x", is_staff=staff)
        user.groups.add(Group.objects.get(name=f"recserve {role}"))
        client.force_login(user)
        async_client.force_login(user)
        return client

    return person


@pytest.fixture
def asked(live_model):
    """Two requests that the process has told of, after a look at none."""
    serving = wiring.get_serving()

    def tell():
        own = process_statistics.own(serving.live, serving.recommender)
        process_statistics.tell(process_name(), own)
        serving.history.looked = float("-inf")
        serving.history.look()

    tell()
    for _ in range(2):
        serving.recommender.recommend(RecommendationRequest("u", features=[1.0, 2.0, 3.0]))
    tell()
    return serving


def test_the_page_opens_without_figures(person, live_model):
    page = person("operate").get(PAGE).content.decode()
    assert "recserve/dashboard.js" in page
    assert "<option>default</option>" in page


@pytest.mark.parametrize(("role", "staff"), [("predict", True), ("operate", False)])
def test_only_staff_that_operates_sees_it(person, live_model, async_client, role, staff):
    client = person(role, staff=staff)
    assert client.get(PAGE).status_code == (403 if staff else 302)
    assert client.get(DATA).status_code == 403

    async def status():
        return (await async_client.get(STREAM)).status_code

    assert async_to_sync(status)() == 403


def test_nobody_is_refused_too(client, live_model):
    assert client.get(DATA).status_code == 403
    assert client.get(STREAM).status_code == 403


def test_without_an_event_loop_there_is_no_stream(person, live_model):
    assert person("operate").get(STREAM).status_code == 406


def test_the_data_says_what_there_is(person, asked):
    data = person("operate").get(DATA).json()
    point = data["points"][-1]
    assert (point["requests"], point["hit_rate"]) == (2, 0.5)
    assert data["lately"]["by_source"] == {"l1": 1, "model": 1}
    state = data["state"]
    assert [each["name"] for each in state["processes"]] == [process_name()]
    assert [each["label"] for each in state["processes"][0]["versions"]] == ["live"]
    assert [(each["model"], each["version"]) for each in state["pools"]] == [("default", 1)]
    assert state["pools"][0]["instances"] == 1
    (l1,) = state["levels"]
    assert (l1["name"], l1["entries"], l1["guarded"], l1["away"]) == ("l1", 1, False, 0)
    assert state["segments"] == ["all"]
    assert state["host"] is None


def test_a_database_that_does_not_answer_is_said(person, live_model, monkeypatch):
    def down(*_, **__):
        raise DatabaseError("away")

    client = person("operate")
    monkeypatch.setattr(dashboard, "_look", down)
    answer = client.get(DATA)
    assert answer.status_code == 503
    assert answer.json() == {"detail": "The database does not answer."}


@pytest.mark.parametrize("since", ["rubbish", "", "nan", "1e400", "-5"])
def test_rubbish_in_the_query_does_no_harm(person, live_model, since):
    answer = person("operate").get(DATA, {"since": since, "model": "nobody's", "segment": "?"})
    assert answer.status_code == 200
    assert answer.json()["points"] == []


async def first_events(client, number):
    response = await client.get(STREAM)
    assert response.status_code == 200, response
    assert response["Content-Type"].startswith("text/event-stream")
    assert response["Cache-Control"] == "no-store"
    found = []
    async for part in response.streaming_content:
        found.append(part.decode())
        if len(found) > number:
            break
    await response.streaming_content.aclose()
    return found


def test_the_stream_sends_the_same(person, asked, async_client):
    data = person("operate").get(DATA).json()
    retry, event = async_to_sync(first_events)(async_client, 1)
    assert retry.startswith("retry: ")
    assert event.startswith("data: {")
    assert event.endswith("}\n\n")
    streamed = json.loads(event.removeprefix("data: "))
    assert streamed["state"] == data["state"]
    assert not streams._open, "a stream that is left is forgotten"


def test_only_so_many_streams_are_open(person, live_model, async_client, monkeypatch):
    person("operate")
    monkeypatch.setattr(streams, "MOST", 0)

    async def status():
        return (await async_client.get(STREAM)).status_code

    assert async_to_sync(status)() == 503


def test_a_server_that_stops_ends_its_streams_at_once(monkeypatch):
    """Whoever handled the signal goes on to."""
    told = []
    before = signal.signal(signal.SIGTERM, lambda *_: told.append("server"))
    interrupt = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(streams, "_stopping", False)
    try:
        streams.listen()

        async def scene():
            async def event():
                return "{}"

            response = streams.stream(event, every=3600.0)
            parts = response.streaming_content
            await anext(parts)
            await anext(parts)
            waiting = asyncio.ensure_future(anext(parts, "ended"))
            await asyncio.sleep(0)
            signal.raise_signal(signal.SIGTERM)
            return await asyncio.wait_for(waiting, 30)

        assert asyncio.run(scene()) == "ended"
        assert told == ["server"]
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)


PAST = f"{PAGE}past/"


def test_longer_periods_come_out_of_the_sums_by_minute(person, live_model):
    """Three requests in one minute, two of one segment; the minutes before are missing."""
    minute = time.time() // 60 * 60 - 120
    answers = {
        Series("answers", "default", level=level): n for level, n in (("l1", 2), ("model", 1))
    }
    lookups = {
        Series("lookups", "default", "new", "l1"): 2,
        Series("lookups", "default", "all", "miss"): 1,
    }
    rollup_writer.add({minute: {**answers, **lookups, Series("told"): 30}})
    client = person("operate")
    points = client.get(PAST, {"minutes": 60}).json()["points"]
    assert len(points) == 61
    (told,) = [point for point in points if not point["empty"]]
    assert (told["at"], told["rate"]) == (minute, 3 / 60)
    assert told["hit_rate"] == pytest.approx(2 / 3)
    assert told["levels"] == {"l1": pytest.approx(2 / 3)}
    new = client.get(PAST, {"minutes": 60, "segment": "new", "model": "default"}).json()["points"]
    (told,) = [point for point in new if not point["empty"]]
    assert (told["rate"], told["hit_rate"], told["errors"]) == (2 / 60, 1.0, None)
    other = client.get(PAST, {"minutes": 360, "model": "other"}).json()["points"]
    assert sum(point["rate"] for point in other) == 0


@pytest.mark.parametrize("minutes", ["", "61", "rubbish", "-1"])
def test_only_the_periods_that_there_are_can_be_chosen(person, live_model, minutes):
    answer = person("operate").get(PAST, {"minutes": minutes})
    assert answer.status_code == 400
    assert "60, 360, 1440, 10080" in answer.json()["detail"]


def test_only_operators_see_the_past(person, live_model):
    assert person("predict").get(PAST, {"minutes": 60}).status_code == 403


def test_open_alerts_and_the_last_warm_ups_stand_beside_the_figures(person, asked):
    rule = AlertRule.objects.create(name="few hits", metric="hit_rate", threshold=0.5)
    now = timezone.now()
    Alert.objects.create(rule=rule, severity="critical", state="firing", started=now, value=0.25)
    for model, earned in (("default", 7), ("other", 0)):
        WarmupRun.objects.create(model=model, strategies=[], warmed=10, earned=earned)
    asked.history.looked = float("-inf")
    client = person("operate")
    state = client.get(DATA).json()["state"]
    (alert,) = state["alerts"]
    assert (alert["rule"], alert["state"], alert["value"]) == ("few hits", "firing", 0.25)
    assert {(run["name"], run["earned"]) for run in state["warm_ups"]} == {
        ("default", 7),
        ("other", 0),
    }
    for url in (alert["url"], state["warm_ups"][0]["url"]):
        assert client.get(url).status_code == 200
    Alert.objects.update(state="resolved")
    asked.history.looked = float("-inf")
    assert client.get(DATA).json()["state"]["alerts"] == []
