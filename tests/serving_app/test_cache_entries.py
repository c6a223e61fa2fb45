"""A user's entries: found on every level, by the API and in the admin; dropped, refreshed."""

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group

from cache_app import wiring as cache_wiring
from cache_app.invalidation import invalidate
from plugins import RecommendationRequest
from plugins.features.file import write_feature_file
from serving_app import cache_entries, wiring
from serving_app.activity_models import ActivityCount
from serving_app.cache_entries import entries_of
from tests.conftest import FEATURES, linear_draft

pytestmark = [pytest.mark.django_db, pytest.mark.contract("O1")]

URL = "/api/v1/cache/entries"
PAGE = "/admin/cache/entries/"


@pytest.fixture
def sourced(fresh, store, db, settings, tmp_path):
    """``default``, which knows its users' features; L2 in a file if the test says so."""
    from serving_app.registration import promote, register

    settings.RECSERVE = {
        **settings.RECSERVE,
        "CACHE": {"L2": {"BACKEND": "embedded", "PATH": str(tmp_path / "l2")}},
    }
    cache_wiring.reset()
    rows = [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]
    write_feature_file(store / "users", ["ann", "7"], FEATURES, rows)
    version = register(
        "default",
        linear_draft(store, feature_source="file", feature_source_options={"path": "users"}),
    )
    promote(version)
    wiring.get_serving().reconciler.reconcile()
    return version


def ask(user, **more):
    answer = wiring.get_recommender().recommend(RecommendationRequest(user, **more))
    wiring.get_serving().activity.flush(at_once=True)
    return answer


def the_entry(user="ann"):
    (entry,) = entries_of(user).entries
    return entry


def test_an_entry_says_where_it_is_and_how_old(sourced):
    ask("ann")
    ask("ann")
    entry = the_entry()
    l1, l2 = entry.residences
    assert (l1.level, l1.hits, l1.tier) == ("l1", 1, "warm")
    assert (l2.level, l2.hits, l2.tier) == ("l2", None, None)
    assert l1.size > 20
    assert l2.size > 20
    assert l1.created == pytest.approx(l2.created, abs=0.1)
    assert l1.created < l1.fresh_until < l1.expires
    assert (entry.parts.user_id, entry.parts.version, entry.context) == ("ann", 1, {})
    assert entry.asked


def test_looking_counts_as_no_hit(sourced):
    ask("ann")
    levels = cache_wiring.get_levels()
    before = {name: (s.hits, s.misses) for name, s in levels.stats().items()}
    for _ in range(3):
        assert len(the_entry().residences) == 2
    assert {name: (s.hits, s.misses) for name, s in levels.stats().items()} == before


def test_what_only_the_file_has_is_found_too(sourced):
    ask("ann", context={"page": "home"})
    (l1, *_rest) = cache_wiring.get_levels().quick
    l1[1].clear()
    entry = the_entry()
    assert [each.level for each in entry.residences] == ["l2"]
    assert entry.context == {"page": "home"}


def test_a_question_without_a_context_is_found_though_nobody_is_known_to_have_asked_it(sourced):
    ask("ann")
    ActivityCount.objects.all().delete()
    assert the_entry().asked is False
    assert entries_of("bob").entries == []


def test_a_number_and_its_text_are_two_users(sourced):
    ask("7")
    ask(7)
    assert {entry.parts.user_id for entry in entries_of("7").entries} == {7, "7"}


def test_answers_to_features_of_their_own_are_found_in_memory(sourced):
    ask("ann", features=[1.0, 2.0, 3.0])
    entry = the_entry()
    assert entry.request is None
    assert entry.parts.features
    with pytest.raises(ValueError, match="not kept"):
        cache_entries.compute_anew(entry)


def test_what_was_invalidated_is_counted_and_not_shown(sourced):
    ask("ann", features=[1.0, 2.0, 3.0])
    invalidate(user_id="ann")
    cache_wiring.get_generations().refresh()
    found = entries_of("ann")
    assert (found.entries, found.forgotten) == ([], 1)


def test_an_alias_shows_and_a_model_that_is_not_live_does_not(sourced):
    ask("ann", alias="production")
    ActivityCount.objects.create(
        digest="x", hour="2026-01-01T00:00Z", kind="request", model="gone", user="ann",
        count=1, last="2026-01-01T00:00Z",
    )  # fmt: skip
    entry = the_entry()
    assert entry.aliases == ["production"]


def test_computing_anew_forgets_the_old_answer_everywhere(sourced):
    ask("ann")
    old = the_entry()
    answer = cache_entries.compute_anew(old)
    assert answer.source == "model"
    new = the_entry()
    assert new.key != old.key
    below = [each.residences[-1] for each in (old, new)]  # L1 keeps lifetimes rounded
    assert [each.level for each in below] == ["l2", "l2"]
    assert below[0].created <= below[1].created
    assert ask("ann").cached


@pytest.fixture
def operator(client, django_user_model):
    user = django_user_model.objects.create_user("olga", password="x", is_staff=True)
    user.groups.add(Group.objects.get(name="recserve operate"))
    client.force_login(user)
    return client


def test_the_api_tells_it(client_as, sourced):
    ask("ann", context={"page": "home"})
    told = client_as("operate").get(URL, {"user_id": "ann"}).json()
    (entry,) = told["entries"]
    assert entry["context"] == {"page": "home"}
    assert (entry["model_name"], entry["model_version"], entry["segment"]) == ("default", 1, "all")
    assert [level["level"] for level in entry["levels"]] == ["l1", "l2"]
    for level in entry["levels"]:
        assert level["fresh"]
        assert 0 <= level["age_seconds"] < 60
        assert level["ttl_seconds"] > 60
        assert level["expires_in_seconds"] > level["ttl_seconds"]
    assert told["process"] == wiring.process_name()
    assert client_as("operate").get(URL, {"user_id": "ann", "model_name": "x"}).json() | {
        "entries": [], "forgotten": 0,
    } == {**told, "entries": [], "forgotten": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("query", "field"),
    [({}, "user_id"), ({"user_id": ""}, "user_id"), ({"user_id": "x" * 257}, "user_id"),
     ({"user_id": "a", "usr": 1}, "usr")],
)  # fmt: skip
def test_the_api_says_what_is_wrong(client_as, live_model, query, field):
    answer = client_as("operate").get(URL, query)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


def test_only_operators_are_told(client_as, live_model):
    assert client_as("predict").get(URL, {"user_id": "ann"}).status_code == 403
    assert client_as(None).get(URL, {"user_id": "ann"}).status_code == 401


def test_the_page_finds_and_drops_once_confirmed(
    operator, sourced, django_capture_on_commit_callbacks
):
    ask("ann", context={"page": "home"})
    page = operator.get(PAGE, {"user_id": "ann"}).content.decode()
    assert "L1" in page
    assert "L2" in page
    assert "&quot;page&quot;: &quot;home&quot;" in page
    posted = {"user_id": "ann", "key": the_entry().key, "action": "drop"}
    asked = operator.post(PAGE, posted).content.decode()
    assert "Yes, drop it" in asked
    assert len(the_entry().residences) == 2, "nothing is dropped yet"
    with django_capture_on_commit_callbacks(execute=True):
        operator.post(PAGE, {**posted, "confirmed": "on"})
    page = operator.get(PAGE, {"user_id": "ann"}).content.decode()
    assert "Dropped: the answer of user ann, default@1." in page
    assert "not cached" in page
    assert the_entry().residences == []
    assert LogEntry.objects.get().object_repr == "an answer of user ann, default@1"
    page = operator.post(PAGE, {**posted, "confirmed": "on"}, follow=True).content.decode()
    assert "This answer is not there any more." in page


def test_the_page_refreshes(operator, sourced):
    ask("ann")
    old = the_entry()
    posted = {"user_id": "ann", "key": old.key, "action": "refresh"}
    page = operator.post(PAGE, posted, follow=True).content.decode()
    assert "Computed anew: the answer of user ann, default@1." in page
    assert the_entry().key != old.key
    assert "to compute it anew" in LogEntry.objects.get().object_repr
    page = operator.post(PAGE, {**posted, "key": the_entry().key, "action": "?"}, follow=True)
    assert "This cannot be computed" in page.content.decode()


def test_a_refresh_that_fails_says_so(operator, sourced, monkeypatch):
    from plugins import InferenceError

    ask("ann")

    def fails(_request):
        raise InferenceError("The model failed.")

    monkeypatch.setattr(wiring.get_recommender(), "recommend", fails)
    posted = {"user_id": "ann", "key": the_entry().key, "action": "refresh"}
    page = operator.post(PAGE, posted, follow=True).content.decode()
    assert "Dropped, but not computed: The model failed." in page


def test_a_user_of_whom_nothing_is_there_is_said(operator, sourced):
    page = operator.get(PAGE, {"user_id": "<b>nobody"}).content.decode()
    assert "Nothing is cached of this user" in page
    assert "<b>nobody" not in page


def test_only_operators_see_the_page(client, django_user_model, live_model):
    user = django_user_model.objects.create_user("vera", password="x", is_staff=True)
    client.force_login(user)
    assert client.get(PAGE).status_code == 403
    assert client.post(PAGE, {"user_id": "a"}).status_code == 403
