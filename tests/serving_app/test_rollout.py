"""Roll-outs, from the first share to everyone, or back."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.contrib.admin.models import LogEntry
from django.core.exceptions import ValidationError
from django.utils import timezone

from plugins import InferenceError, RecommendationRequest
from serving_app import process_statistics, promotion, registration, rollout, wiring
from serving_app.core.latency import LatencyCounts
from serving_app.core.live_models import Routes
from serving_app.core.outcomes import OutcomeCounts
from serving_app.core.statistics import Statistics, VersionStats
from serving_app.models import Alias, RollOut, RollOutStep
from tests.conftest import linear_draft

pytestmark = [pytest.mark.django_db, pytest.mark.contract("S14")]


@pytest.fixture
def versions(live_model, store):
    """Version 1 is live; 2 is not."""
    return live_model, registration.register("default", linear_draft(store, "two.npz", seed=2))


def history(roll_out):
    return [(s.action, float(s.percent)) for s in roll_out.steps.order_by("pk")]


def routed() -> Routes:
    wiring.get_serving().reconciler.reconcile()
    return wiring.get_serving().live.routes()["default"]


def ask(user, n=0):
    request = RecommendationRequest(user, features=[1.0, 2.0, float(n)])
    return wiring.get_recommender().recommend(request)


def test_a_candidate_goes_from_a_share_of_the_users_to_all(versions, admin_user):
    one, two = versions
    roll_out = rollout.start(two, [10, 50], by=admin_user)
    assert routed().canary_share == 1000
    users = [f"u{n}" for n in range(300)]
    first = {user for user in users if ask(user).alias == "canary"}
    assert len(first) == pytest.approx(30, abs=20)
    assert {ask(user).model_version for user in first} == {2}
    rollout.raise_share(roll_out, by=admin_user)
    assert routed().canary_share == 5000
    second = {user for user in users if ask(user).alias == "canary"}
    assert first < second
    with pytest.raises(ValidationError, match="last step"):
        rollout.raise_share(roll_out)
    rollout.raise_share(roll_out, "62.25", by=admin_user)
    assert routed().canary_share == 6225
    rollout.promote(roll_out, by=admin_user, reason="Fine.")
    assert set(routed().aliases) == {"production"}
    assert {ask(user).model_version for user in users} == {2}
    roll_out.refresh_from_db()
    assert (roll_out.state, roll_out.ended is not None) == ("promoted", True)
    assert history(roll_out) == [
        ("started", 10),
        ("raised", 50),
        ("raised", 62.25),
        ("promoted", 100),
    ]
    assert [entry.change_message for entry in LogEntry.objects.order_by("pk")] == [
        "Roll-out of default@2: started, 10 %.",
        "Roll-out of default@2: share changed, 50 %.",
        "Roll-out of default@2: share changed, 62.25 %.",
        "Made default@2 live",
        "Roll-out of default@2: promoted, 100 %. Fine.",
    ]
    assert promotion.roll_back(one.model) == one, "a promoted roll-out is a promotion"


def test_an_aborted_candidate_leaves(versions, admin_user):
    roll_out = rollout.start(versions[1], [100], by=admin_user)
    assert set(routed().aliases) == {"production", "canary"}
    assert ask("u").model_version == 2
    rollout.abort(roll_out, by=admin_user)
    assert set(routed().aliases) == {"production"}
    assert ask("u").model_version == 1
    assert history(roll_out) == [("started", 100), ("aborted", 0)]
    for step in (rollout.abort, rollout.promote, rollout.raise_share):
        with pytest.raises(ValidationError, match="has ended: aborted"):
            step(roll_out)
    rollout.start(versions[1], [1])


@pytest.mark.parametrize(
    ("percents", "says"),
    [
        ([], "above 0"),
        ([0], "above 0"),
        ([101], "above 0"),
        ([0.001], "steps of 0.01"),
        (["NaN"], "above 0"),
        (["many"], "are numbers"),
        ([10, 5], "must go up"),
        ([5, 5], "must go up"),
    ],
)
def test_shares_that_are_none_are_refused(versions, percents, says):
    with pytest.raises(ValidationError, match=says):
        rollout.start(versions[1], percents)
    assert not RollOut.objects.exists()
    assert not RollOutStep.objects.exists()


def test_what_cannot_be_rolled_out_is_refused(versions, store):
    one, two = versions
    with pytest.raises(ValidationError, match="in production already"):
        rollout.start(one, [5])
    lonely = registration.register("lonely", linear_draft(store))
    with pytest.raises(ValidationError, match="no live version to compare with"):
        rollout.start(lonely, [5])
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        rollout.start(two, [5], step_seconds=0.1)
    rollout.start(two, [5])
    with pytest.raises(ValidationError, match="has a roll-out running"):
        rollout.start(two, [5])
    for change in (lambda: promotion.promote(two), lambda: promotion.roll_back(one.model)):
        with pytest.raises(ValidationError, match="has a roll-out running"):
            change()
    with pytest.raises(ValidationError, match="its roll-out is promoted or aborted"):
        promotion.remove_alias(Alias.objects.get(name="canary"))


def tell(process, canary, production, numbers=(2, 1)):
    """Let a process tell its counts: computed, failed, and the bucket of all latencies."""

    def stats(computed, failed, bucket):
        seconds = LatencyCounts({bucket: computed - failed}, 0.0, 0.0)
        batching = wiring.get_serving().live.live()["default"].stats()
        return VersionStats(
            "fake", 1, {process: batching}, OutcomeCounts(computed, failed, seconds)
        )

    told = dict(zip(numbers, (stats(*canary), stats(*production)), strict=True))
    process_statistics.tell(process, Statistics(versions={"default": told}))


def evaluate():
    RollOut.objects.update(evaluated=None)
    rollout.evaluate()
    return RollOut.objects.get()


def test_a_canary_that_fails_more_often_in_the_sum_of_all_processes_is_rolled_back(
    versions, admin_user
):
    rollout.start(versions[1], [5], by=admin_user)
    for process in ("a", "b", "c"):  # long ago, when version 2 was live
        tell(process, (1000, 900, 60), (1000, 0, 60))
    assert evaluate().state == "running", "what was before the roll-out does not count"
    for process in ("a", "b", "c"):  # of one alone, it would not be enough
        tell(process, (1002, 901, 60), (1100, 0, 60))
    ended = evaluate()
    assert ended.state == "rolled_back"
    step = ended.steps.first()
    assert (step.action, step.by) == ("rolled_back", None)
    assert step.figures["canary"] == {"computed": 6, "failed": 3}
    assert step.figures["production"] == {"computed": 300, "failed": 0}
    assert "fails more often than production: 3 of 6 failed" in step.reason
    assert set(routed().aliases) == {"production"}
    assert "Rolled default@2 back." in LogEntry.objects.latest("pk").change_message


def test_a_slower_canary_is_rolled_back_and_one_that_is_alike_is_not(versions):
    rollout.start(versions[1], [5])
    for turn, bucket in enumerate([60] * 10 + [70] * 3):
        tell("a", (20 * turn, 0, bucket), (400 * turn, 0, 60))
        state = evaluate().state
        assert state == ("rolled_back" if turn >= 11 else "running") or turn == 10
    assert "is slower than production" in RollOutStep.objects.first().reason


def test_a_version_that_was_loaded_anew_and_a_process_that_has_gone_are_no_trouble(versions):
    rollout.start(versions[1], [5])
    tell("a", (100, 50, 60), (1000, 0, 60))
    tell("b", (100, 50, 60), (1000, 0, 60))
    evaluate()
    process_statistics.forget("b")
    tell("a", (10, 0, 60), (1020, 0, 60))
    roll_out = evaluate()
    assert roll_out.state == "running"
    assert (roll_out.evidence["canary"]["requests"], roll_out.evidence["canary"]["errors"]) == (
        10,
        0,
    )


def test_of_two_processes_that_evaluate_at_once_one_counts(versions, monkeypatch):
    rollout.start(versions[1], [5])
    tell("a", (0, 0, 60), (0, 0, 60))
    evaluate()
    tell("a", (10, 0, 60), (10, 0, 60))
    look = rollout.Evidence.look

    def other_first(self, told, *, alpha):
        monkeypatch.setattr(rollout.Evidence, "look", look)
        rollout.evaluate()  # another process, between our read and our write
        return look(self, told, alpha=alpha)

    monkeypatch.setattr(rollout.Evidence, "look", other_first)
    roll_out = evaluate()
    assert roll_out.turn == 2
    assert roll_out.evidence["canary"]["requests"] == 10
    rollout.evaluate()
    roll_out.refresh_from_db()
    assert roll_out.turn == 2, "it has been evaluated a moment ago"


def test_a_roll_out_with_a_pace_goes_to_the_end_by_itself(versions, admin_user):
    roll_out = rollout.start(versions[1], [5, 50], step_seconds=60, by=admin_user)

    def later(computed):
        RollOut.objects.update(stepped=timezone.now() - timedelta(seconds=61))
        tell("a", (computed, 0, 60), (computed, 0, 60))
        return evaluate()

    later(0)
    later(99)
    assert roll_out.percent == 5, "too few computations to say that nothing is wrong"
    later(150)
    roll_out = RollOut.objects.get()
    assert roll_out.percent == 50
    assert evaluate().state == "running", "its time has begun anew"
    assert later(200).state == "promoted"
    assert versions[1].model.live_version == versions[1]
    assert [(s.action, s.by) for s in roll_out.steps.order_by("pk")] == [
        ("started", admin_user),
        ("raised", None),
        ("promoted", None),
    ]


def test_what_really_fails_is_told_by_the_process_itself(versions, monkeypatch):
    """From a model that raises to the roll-back, with nothing faked but the model."""
    rollout.start(versions[1], [50])
    routed()
    serving = wiring.get_serving()
    canary = serving.live.routes()["default"].aliases["canary"]
    broken = canary._engine._hosted

    def fails(inputs):
        raise ValueError("broken on purpose")

    monkeypatch.setattr(broken, "run", fails)
    RollOut.objects.update(evaluated=None)  # on a slow machine it was, before the canary was live
    serving.reconciler._tell()
    failed = 0
    for n in range(60):
        try:
            assert ask(f"u{n}", n).model_version == 1
        except InferenceError:
            failed += 1
    assert 10 < failed < 50
    assert canary.outcomes.counts().errors == failed
    RollOut.objects.update(evaluated=None)
    serving.reconciler._tell()
    assert RollOut.objects.get().state == "rolled_back"
    assert set(routed().aliases) == {"production"}
    assert all(ask(f"u{n}", n).model_version == 1 for n in range(60))


def test_percent_is_decimal_all_the_way(versions):
    roll_out = rollout.start(versions[1], [0.07])
    assert roll_out.percent == Decimal("0.07")
    assert routed().canary_share == 7
