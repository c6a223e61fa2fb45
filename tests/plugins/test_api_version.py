"""A plugin says which contract it was written for, and is left out if that is not offered."""

from __future__ import annotations

import types

import pytest

from plugins import PLUGIN_API, PluginError, api_version
from plugins.api_version import needed_api
from tests.plugins.test_loading import POLICY, write  # noqa: F401  (a fixture)

pytestmark = pytest.mark.contract("O7")


def load(point):
    from plugins.loading import load_plugins

    (record,) = load_plugins(entry_points=[point]).records
    return record


def test_a_plugin_of_this_contract_is_taken(write):  # noqa: F811
    record = load(write(f"{POLICY}\nRECSERVE_PLUGIN_API = {PLUGIN_API}\n"))
    assert (record.state, record.api) == ("loaded", PLUGIN_API)


def test_one_that_says_nothing_is_judged_by_its_methods(write):  # noqa: F811
    record = load(write(POLICY))
    assert (record.state, record.api) == ("loaded", None)


def test_one_of_a_later_contract_is_left_out(write):  # noqa: F811
    # Its hooks may be unknown here; the reason is the contract, not the first of them.
    source = f"from plugins import hookimpl\nRECSERVE_PLUGIN_API = {PLUGIN_API + 1}\n"
    record = load(write(source + "@hookimpl\ndef recserve_of_tomorrow(): return {}\n"))
    assert record.state == "failed"
    assert f"written for plugin API {PLUGIN_API + 1}" in record.reason
    assert "upgrade recserve" in record.reason


def test_one_of_a_contract_that_has_gone_is_left_out(write, monkeypatch):  # noqa: F811
    monkeypatch.setattr(api_version, "OLDEST_PLUGIN_API", 2)
    monkeypatch.setattr(api_version, "PLUGIN_API", 3)
    record = load(write(f"{POLICY}\nRECSERVE_PLUGIN_API = 1\n"))
    assert record.state == "failed"
    assert "takes 2 to 3: install a newer release of the plugin" in record.reason


@pytest.mark.parametrize("declared", ["1", 1.0, True, (1,)])
def test_what_is_no_number_is_refused(declared):
    with pytest.raises(PluginError, match="no whole number"):
        needed_api(types.SimpleNamespace(RECSERVE_PLUGIN_API=declared))
