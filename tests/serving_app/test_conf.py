from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from serving_app.checks import check_settings
from serving_app.conf import ServingSettings, serving_settings


def test_without_settings_the_defaults_hold(settings):
    settings.RECSERVE = {}
    assert serving_settings() == ServingSettings()


def test_given_values_are_taken(settings):
    settings.RECSERVE = {"SERVING": {"MODEL_STORE": "/data/models", "DEPTH": 7, "MAX_K": 5}}
    found = serving_settings()
    assert (found.model_store, found.depth, found.max_k) == (Path("/data/models"), 7, 5)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"DEPHT": 5}, "Did you mean 'DEPTH'"),
        ({"DEPTH": "5"}, "positive whole number"),
        ({"DEPTH": 0}, "positive whole number"),
        ({"DEPTH": True}, "positive whole number"),
        ({"DEPTH": 1.5}, "positive whole number"),
        ({"RECONCILE_SECONDS": -1}, "positive number"),
        ({"MODEL_STORE": 5}, "must be a path"),
        ({"MODEL_HOST": "on"}, "'auto', 'off' or the absolute path of a socket"),
        ({"MODEL_HOST": False}, "'auto', 'off' or the absolute path of a socket"),
        ({"LANE_ENTRANCE": "socket"}, 'must be "protocol" or "asgi"'),
        ([], "must be a dict"),
    ],
)
def test_a_wrong_setting_is_named_at_start_and_by_check(settings, given, says):
    settings.RECSERVE = {"SERVING": given}
    with pytest.raises(ImproperlyConfigured, match=says):
        serving_settings()
    (error,) = check_settings()
    assert error.id == "serving_app.E001"
    assert says in error.msg


def test_settings_that_were_read_before_are_not_taken_for_others(settings):
    settings.RECSERVE = {"SERVING": {"DEPTH": 1}}
    assert serving_settings().depth == 1
    settings.RECSERVE["SERVING"]["DEPTH"] = 2  # in place, so nobody is told
    assert serving_settings().depth == 2
    settings.RECSERVE["SERVING"]["DEPTH"] = 1.0  # equals 1, and is no whole number
    with pytest.raises(ImproperlyConfigured, match="positive whole number"):
        serving_settings()
    settings.RECSERVE["SERVING"]["DEPTH"] = [1]  # cannot be remembered
    with pytest.raises(ImproperlyConfigured, match="positive whole number"):
        serving_settings()


@pytest.mark.parametrize(
    ("given", "told", "socket"),
    [
        ("auto", "", None),
        ("auto", "/run/host.sock", "/run/host.sock"),
        ("off", "", None),
        ("/run/other.sock", "", "/run/other.sock"),
        ("/run/other.sock", "off", None),  # manage.py serve --no-model-host
    ],
)
def test_where_models_run(settings, monkeypatch, given, told, socket):
    settings.RECSERVE = {"SERVING": {"MODEL_HOST": given}}
    monkeypatch.setenv("RECSERVE_HOST_SOCKET", told)
    found = serving_settings().host_socket()
    assert found == (None if socket is None else Path(socket))
