"""Database and live models come to agree, whatever happens on the way."""

import subprocess
import sys
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from plugins import ArtifactRejected, ModelNotFound, ModelNotReady, RecommendationRequest
from serving_app import promotion, registration, wiring
from serving_app.models import Activation
from tests.conftest import linear_draft
from tests.journeys.conftest import ROOT
from tests.servers import wait_for

pytestmark = [pytest.mark.django_db, pytest.mark.contract("S9")]

QUESTION = RecommendationRequest("u", features=[1.0, 2.0, 3.0])


@pytest.fixture
def reconcile(fresh):
    return wiring.get_serving().reconciler.reconcile


def ask():
    return wiring.get_recommender().recommend(QUESTION)


def make(store, seed):
    return registration.register("default", linear_draft(store, f"m{seed}.npz", seed=seed))


def test_a_promoted_version_goes_live_and_says_so(reconcile, store):
    with pytest.raises(ModelNotFound):
        ask()
    version = make(store, 1)
    reconcile()
    with pytest.raises(ModelNotReady):
        ask()
    registration.promote(version)
    reconcile()
    assert ask().model_version == 1
    activation = Activation.objects.get()
    assert (activation.version, activation.state) == (version, "live")
    assert activation.load_seconds > 0


def test_another_version_swaps_in_and_a_roll_back_finds_its_cached_answers(reconcile, store):
    one, two = make(store, 1), make(store, 2)
    registration.promote(one)
    reconcile()
    first = ask()
    registration.promote(two)
    reconcile()
    second = ask()
    assert (second.model_version, second.cached) == (2, False)
    assert second.items != first.items
    registration.roll_back(one.model)
    reconcile()
    again = ask()
    assert (again.model_version, again.cached, again.items) == (1, True, first.items)


def test_a_version_that_cannot_load_leaves_the_old_one_answering(reconcile, store, caplog):
    one, two = make(store, 1), make(store, 2)
    registration.promote(one)
    reconcile()
    (store / two.artifact).write_bytes(b"damaged since")
    registration.promote(two)
    reconcile()
    assert ask().model_version == 1
    live, failed = Activation.objects.all()
    assert (live.version, live.state) == (one, "live")
    assert (failed.version, failed.state) == (two, "failed")
    assert "SHA-256 differs" in failed.problem
    registration.roll_back(one.model)
    reconcile()
    assert Activation.objects.get() == live


def test_a_damaged_catalogue_is_noticed_too(reconcile, store):
    version = make(store, 1)
    (store / version.catalogue).write_text("item,title\nx,Other\n")
    registration.promote(version)
    reconcile()
    assert "SHA-256 differs" in Activation.objects.get().problem


@pytest.mark.contract("C3")
def test_the_cache_ages_when_a_version_goes_live(reconcile, store, monkeypatch):
    heard = []
    monkeypatch.setattr(wiring.cache_wiring, "on_generation", lambda *args: heard.append(args))
    registration.promote(make(store, 1))
    reconcile()
    assert heard == [("default", 0, 1)]


def test_a_deleted_model_leaves(reconcile, store):
    version = make(store, 1)
    registration.promote(version)
    reconcile()
    version.model.delete()
    reconcile()
    with pytest.raises(ModelNotFound):
        ask()


def test_changed_model_settings_reopen_the_version(reconcile, store):
    version = make(store, 1)
    registration.promote(version)
    reconcile()
    model = version.model
    model.refresh_from_db()
    model.max_batch, model.max_wait, model.headroom = 3, 0.001, 0.5
    model.executor_options = {"min_instances": 2}
    model.save()
    reconcile()
    record = wiring.get_serving().live.live()["default"].record
    assert (record.max_batch, record.max_wait, record.headroom) == (3, 0.001, 0.5)
    assert ask().model_version == 1


def test_stopping_frees_the_models_and_refuses_further_requests(reconcile, store):
    version = make(store, 1)
    registration.promote(version)
    reconcile()
    live = wiring.get_serving().live.live()["default"]
    wiring.stop()
    with pytest.raises(ModelNotReady):
        live.submit(live.layout.row([1, 2, 3]), 5)


def test_a_listener_hears_of_the_activation(reconcile, store, monkeypatch):
    heard = []
    reconciler = wiring.get_serving().reconciler
    monkeypatch.setattr(reconciler, "_activated", lambda name, n: heard.append((name, n)))
    registration.promote(make(store, 1))
    reconcile()
    reconcile()
    assert heard == [("default", 1)]


def test_an_artifact_is_opened_only_with_its_registered_digest(store, fresh):
    from plugins.apps import get_registry
    from serving_app.core.live_version import open_version

    version = make(store, 1)
    record = version.record()
    open_version(record, store=store, registry=get_registry()).close()
    (store / version.artifact).write_bytes((store / make(store, 2).artifact).read_bytes())
    with pytest.raises(ArtifactRejected, match="not the file that was registered"):
        open_version(record, store=store, registry=get_registry())


@pytest.mark.contract("S1")
def test_every_version_with_an_alias_is_live_and_one_with_two_is_loaded_once(reconcile, store):
    one, two = make(store, 1), make(store, 2)
    registration.promote(one)
    for name, version in (("champion", one), ("challenger", two)):
        promotion.set_alias(version, name)
    reconcile()
    assert {(row.version, row.state) for row in Activation.objects.all()} == {
        (one, "live"),
        (two, "live"),
    }
    routes = wiring.get_serving().live.routes()["default"]
    assert routes.aliases["champion"] is routes.aliases["production"]
    asked = {
        alias: wiring.get_recommender().recommend(replace(QUESTION, alias=alias))
        for alias in ("", "champion", "challenger", "1", "2")
    }
    assert {alias: answer.model_version for alias, answer in asked.items()} == {
        "": 1,
        "champion": 1,
        "challenger": 2,
        "1": 1,
        "2": 2,
    }
    assert [answer.alias for answer in asked.values()] == [
        "production",
        "champion",
        "challenger",
        "",
        "",
    ]
    assert asked["champion"].cached, "versions have entries, not aliases"
    promotion.remove_alias(two.aliases.get())
    reconcile()
    assert Activation.objects.get().version == one
    with pytest.raises(ModelNotFound, match="has no alias 'challenger'"):
        wiring.get_recommender().recommend(replace(QUESTION, alias="challenger"))
    with pytest.raises(ModelNotReady, match="'default@2' has no live version"):
        wiring.get_recommender().recommend(replace(QUESTION, alias="2"))


def test_a_roll_back_finds_its_version_in_memory_even_if_its_file_has_gone(reconcile, store):
    one, two = make(store, 1), make(store, 2)
    registration.promote(one)
    reconcile()
    before = wiring.get_serving().live.live()["default"]
    registration.promote(two)
    reconcile()
    assert {row.version: row.state for row in Activation.objects.all()} == {
        one: "warm",
        two: "live",
    }
    (store / one.artifact).unlink()
    registration.roll_back(one.model)
    reconcile()
    assert wiring.get_serving().live.live()["default"] is before
    assert ask().model_version == 1


def test_what_is_in_memory_answers_before_anything_is_loaded(reconcile, store, monkeypatch):
    one, two, other = (
        make(store, 1),
        make(store, 2),
        registration.register("a", linear_draft(store)),
    )
    registration.promote(one)
    reconcile()
    registration.promote(two)
    reconcile()
    reconciler = wiring.get_serving().reconciler
    open_version, seen = reconciler._open_version, []

    def slowly(record):
        seen.append((record.label, ask().model_version))
        return open_version(record)

    monkeypatch.setattr(reconciler, "_open_version", slowly)
    registration.roll_back(one.model)
    registration.promote(other)
    reconcile()
    assert seen == [("a@1", 1)], "the roll-back did not wait for the load of another model"


def test_rows_that_another_process_took_away_are_written_again(reconcile, store, monkeypatch):
    registration.promote(make(store, 1))
    reconcile()
    Activation.objects.all().delete()
    monkeypatch.setattr(wiring.get_serving().reconciler, "_beat", 0.0)
    reconcile()
    reconcile()
    assert Activation.objects.get().state == "live"


def test_a_new_version_computes_recent_requests_before_it_answers(reconcile, store, monkeypatch):
    registration.promote(make(store, 1))
    reconcile()
    asked = [[1.0, 2.0, float(n)] for n in range(40)]
    for features in asked:
        wiring.get_recommender().recommend(RecommendationRequest("u", features=features))
    registration.promote(make(store, 2))
    reconcile()
    version = wiring.get_serving().live.live()["default"]
    assert version.record.version == 2
    stats = version.stats()
    assert stats.submitted == 40
    assert version.outcomes.counts().requests == 0, "nobody waited for these"


def test_a_version_that_fails_on_recent_requests_does_not_go_live(reconcile, store, monkeypatch):
    registration.promote(make(store, 1))
    reconcile()
    for n in range(20):
        wiring.get_recommender().recommend(
            RecommendationRequest("u", features=[1.0, 2.0, float(n)])
        )
    two = make(store, 2)
    open_version = wiring.open_version

    def fails_on_real_rows(record, **more):
        version = open_version(record, **more)
        run = version._engine._hosted.run

        def only_zeros(inputs):
            if any(np.any(tensor) for tensor in inputs.values()):
                raise ValueError("never seen such a row")
            return run(inputs)

        version._engine._hosted.run = only_zeros
        return version

    monkeypatch.setattr(wiring, "open_version", fails_on_real_rows)
    registration.promote(two)
    reconcile()
    assert ask().model_version == 1
    failed = Activation.objects.get(version=two)
    assert failed.state == "failed"
    assert "failed on 20 of 20 recent requests" in failed.problem
    assert "never seen such a row" in failed.problem


@pytest.mark.contract("S14")
def test_a_shadow_is_compared_and_its_figures_are_in_the_statistics(reconcile, store, client_as):
    one, two = make(store, 1), make(store, 2)
    registration.promote(one)
    promotion.set_alias(two, "shadow", percent=Decimal(100))
    reconcile()
    for n in range(30):
        answer = wiring.get_recommender().recommend(
            RecommendationRequest("u", features=[1.0, 2.0, float(n)])
        )
        assert answer.model_version == 1
    ask()
    ask()  # a hit, of the row with n = 3, is not computed, and not compared
    operator = client_as("operate")

    def told():
        return operator.get("/api/v1/serving/stats").json()["models"]["default"]["shadows"]

    wait_for(lambda: told() and told()[0]["compared"] + told()[0]["dropped"] == 30)
    (pair,) = told()
    assert (pair["version"], pair["shadow"], pair["errors"]) == (1, 2, 0)
    assert 0 < pair["overlap_10"] < 1
    assert 0 < pair["rank_biased_overlap"] < 1
    assert pair["shadow_ms"]["count"] == pair["compared"]


def test_a_change_by_another_process_of_the_host_is_followed_at_once(fresh, settings, tmp_path):
    settings.RECSERVE = {
        **settings.RECSERVE,
        "SERVING": {**settings.RECSERVE["SERVING"], "RECONCILE_SECONDS": 3600},
        "CACHE": {"EPOCH_FILE": str(tmp_path / "epoch")},
    }
    reconciler = wiring.get_serving().reconciler
    passes = []
    reconciler.reconcile = lambda: passes.append(1)
    reconciler.start()
    wait_for(lambda: len(passes) == 1)
    code = (
        "import sys; from pathlib import Path; from cache_app.epoch_file import EpochFile\n"
        "EpochFile(Path(sys.argv[1])).advance(2**62)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "epoch-routes"], check=True, cwd=ROOT)
    wait_for(lambda: len(passes) == 2)
    wiring.wake()
    wait_for(lambda: len(passes) == 3)
