"""Database and live models come to agree, whatever happens on the way."""

import pytest

from plugins import ArtifactRejected, ModelNotFound, ModelNotReady, RecommendationRequest
from serving_app import registration, wiring
from serving_app.models import Activation
from tests.conftest import linear_draft

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
    activation = Activation.objects.get()
    assert (activation.version, activation.state) == (two, "failed")
    assert "SHA-256 differs" in activation.problem
    registration.roll_back(one.model)
    reconcile()
    assert Activation.objects.get().state == "live"


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
    model.max_batch = 3
    model.executor_options = {"instances": 2}
    model.save()
    reconcile()
    assert wiring.get_serving().live.live()["default"].record.max_batch == 3
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
