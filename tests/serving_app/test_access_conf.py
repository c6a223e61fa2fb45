import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from serving_app.access_conf import access_settings
from serving_app.core.throttling import Rate


def given(settings, **values):
    settings.RECSERVE = {**settings.RECSERVE, "ACCESS": values}
    return access_settings()


def test_rates_are_read_by_scope_and_role(settings):
    assert given(settings).throttles["predict"] == {"": None}
    rates = given(settings, THROTTLES={"predict": {"predict": "50/s", "operate": None}}).throttles
    assert rates["predict"] == {"predict": Rate(50, 1.0), "operate": None}
    assert rates["sign_in"] == {"": Rate(20, 60.0)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"THROTTLE": {}}, "Did you mean 'THROTTLES'"),
        ({"THROTTLES": {"predicting": "1/s"}}, "keys of predict"),
        ({"THROTTLES": {"predict": "often"}}, "no rate"),
        ({"THROTTLES": {"predict": {"boss": "1/s"}}}, "roles of predict"),
        ({"THROTTLES": "1/s"}, "must be a dict"),
        ({"REMEMBERED_TOKENS": 0}, "positive"),
        ({"REVOCATION_SECONDS": True}, "positive"),
        ({"METRICS_NETWORKS": "10.0.0.0/8"}, "list of networks"),
        ({"METRICS_NETWORKS": ["10.0.0.1/8"]}, "host bits"),
        ({"METRICS_NETWORKS": {1}}, "plain values"),
    ],
)
def test_wrong_settings_are_named(settings, values, message):
    with pytest.raises(ImproperlyConfigured, match=message):
        given(settings, **values)


@pytest.mark.django_db
def test_the_system_check_says_so_too(settings):
    settings.RECSERVE = {**settings.RECSERVE, "ACCESS": {"THROTTLE": {}}}
    with pytest.raises(SystemCheckError, match="THROTTLES"):
        call_command("check")
