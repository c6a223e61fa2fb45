"""Strategies as operators give them: by name and options."""

import pytest

from plugins import InvalidOptions, UnknownPlugin
from plugins.warmup.from_file import FromFile
from plugins.warmup.popular import Popular
from serving_app.warmup_strategies import make_strategy

pytestmark = pytest.mark.contract("W1")


def test_a_strategy_is_made_of_its_name_and_options():
    assert isinstance(make_strategy("popular"), Popular)
    assert make_strategy("popular", {"days": 7, "minimum": 3})._days == 7


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("populer", {}, UnknownPlugin, "Did you mean 'popular'"),
        ("popular", {"day": 1.0}, InvalidOptions, "Did you mean 'days'"),
        ("popular", {"days": "a week"}, InvalidOptions, "'days' .* must be float"),
        ("popular", {"days": -1.0}, InvalidOptions, "'days' must be more than 0"),
        ("popular", {"path": "x"}, InvalidOptions, "'path' is no option"),
        ("popular", ["days"], InvalidOptions, "must be a mapping"),
    ],
)
def test_what_is_wrong_is_named(name, options, error, message):
    with pytest.raises(error, match=message):
        make_strategy(name, options)


def test_a_file_is_found_in_the_model_store(store):
    (store / "lists").mkdir()
    (store / "lists" / "who.csv").write_text("user_id\nann\n")
    strategy = make_strategy("from_file", {"path": "lists/who.csv"})
    assert isinstance(strategy, FromFile)
    assert strategy._path == (store / "lists" / "who.csv").resolve()


@pytest.mark.parametrize("path", ["../who.csv", "/etc/passwd", "link.csv", "", ".", "none.csv"])
def test_no_other_file_is_read(store, path):
    (store.parent / "who.csv").write_text("user_id\nann\n")
    (store / "link.csv").symlink_to(store.parent / "who.csv")
    with pytest.raises(InvalidOptions, match=r"'path' of from_file: .* model store"):
        make_strategy("from_file", {"path": path})


@pytest.mark.parametrize("path", [None, 7, ["who.csv"]])
def test_a_path_is_text(store, path):
    with pytest.raises(InvalidOptions, match=r"'path' .* must be str"):
        make_strategy("from_file", {"path": path})
