"""The settings of warming up."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from serving_app.checks import check_settings
from serving_app.warmup_conf import WarmupSettings, warmup_settings

pytestmark = pytest.mark.contract("W3")


def test_every_key_has_a_default(settings):
    settings.RECSERVE = {}
    assert warmup_settings() == WarmupSettings()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"SCHEDULR": False}, "SCHEDULER"),
        ({"SCHEDULER": 1}, "True or False"),
        ({"SHARE": 1.5}, "at most 1"),
        ({"SHARE": 0}, "positive"),
        ({"DEAD_SECONDS": -1}, "positive"),
        ({"MAX_BUDGET": 2.5}, "whole"),
        ({"RUNS": 10**10}, "at most"),
        ([], "dict"),
    ],
)
def test_a_wrong_setting_is_named_by_the_check(settings, given, says):
    settings.RECSERVE = {"WARM_UP": given}
    with pytest.raises(ImproperlyConfigured, match=r"WARM_UP.*" + says):
        warmup_settings()
    (error,) = check_settings()
    assert "WARM_UP" in error.msg
