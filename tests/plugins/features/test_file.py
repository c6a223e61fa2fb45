"""The feature file: written once, mapped, looked up by id."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from plugins.errors import InvalidOptions
from plugins.features.builtin import recserve_feature_sources
from plugins.features.file import FileFeatures, write_feature_file

pytestmark = pytest.mark.contract("S7")

IDS = ("7", "10", "ann", "Zoë", "9")
ROWS = np.arange(10, dtype=np.float32).reshape(5, 2)


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "features"
    write_feature_file(path, IDS, ("age", "spend"), ROWS)
    return path


def _rewritten_meta(directory, **changes):
    path = directory / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_every_user_is_found_whatever_the_order_of_writing(directory):
    source = FileFeatures(path=str(directory))
    assert source.feature_names == ("age", "spend")
    for user_id, row in zip(IDS, ROWS, strict=True):
        found = source.features(user_id, {})
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, row)


def test_a_number_and_its_text_are_the_same_user(directory):
    source = FileFeatures(path=str(directory))
    np.testing.assert_array_equal(source.features(10, {}), source.features("10", {}))


@pytest.mark.parametrize(
    "user_id", ["", "8", "zzz", "7\0", "a much longer id than any in the file", "\ud800", -1]
)
def test_unknown_user_is_none_without_a_default_row(directory, user_id):
    assert FileFeatures(path=str(directory)).features(user_id, {}) is None


def test_unknown_user_gets_the_default_row(tmp_path):
    write_feature_file(tmp_path / "f", IDS, ("a", "b"), ROWS, default_row=[0.5, -1])
    source = FileFeatures(path=str(tmp_path / "f"))
    np.testing.assert_array_equal(source.features("nobody", {}), [0.5, -1])
    np.testing.assert_array_equal(source.features("9", {}), ROWS[4])


@pytest.mark.parametrize("default_row", [None, [1.0, 0.0]])
def test_a_file_without_users(tmp_path, default_row):
    write_feature_file(tmp_path / "f", (), ("a", "b"), np.zeros((0, 2)), default_row)
    found = FileFeatures(path=str(tmp_path / "f")).features("7", {})
    assert (found is None) if default_row is None else (found.tolist() == default_row)


def test_unicode_ids_are_read_too(directory):
    np.save(directory / "ids.npy", np.array(sorted(IDS)))
    source = FileFeatures(path=str(directory))
    np.testing.assert_array_equal(source.features("Zoë", {}), ROWS[3])
    assert source.features("much longer than the others", {}) is None


def test_arrays_are_mapped_and_rows_are_copies(directory):
    source = FileFeatures(path=str(directory))
    for array in source._arrays:
        assert isinstance(array.base, np.memmap)
    source.features("7", {})[:] = 99
    np.testing.assert_array_equal(source.features("7", {}), ROWS[0])


def test_many_threads_look_up_at_once(directory):
    source = FileFeatures(path=str(directory))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: source.features(IDS[i % 5], {}), range(2_000)))
    assert all((row == ROWS[i % 5]).all() for i, row in enumerate(found))


def test_closed_source_says_so(directory):
    source = FileFeatures(path=str(directory))
    source.close()
    with pytest.raises(ValueError, match="closed"):
        source.features("7", {})


@pytest.mark.parametrize(
    ("ids", "rows", "default_row", "message"),
    [
        (("a", "b", "a"), np.zeros((3, 2)), None, "'a' occurs twice"),
        (("a", ""), np.zeros((2, 2)), None, "empty"),
        (("a\0",), np.zeros((1, 2)), None, "NUL"),
        (("a",), np.zeros((2, 2)), None, r"shape \(1, 2\)"),
        (("a",), np.zeros((1, 2)), [1.0], r"default row needs shape \(2,\)"),
        (("a",), [[1.0, np.nan]], None, "finite"),
    ],
)
def test_writing_refuses_what_could_not_be_read(tmp_path, ids, rows, default_row, message):
    with pytest.raises(ValueError, match=message):
        write_feature_file(tmp_path / "f", ids, ("a", "b"), rows, default_row)
    assert not (tmp_path / "f").exists()


def test_a_file_in_use_is_not_changed_in_place(directory):
    with pytest.raises(FileExistsError, match="not empty"):
        write_feature_file(directory, IDS, ("age", "spend"), ROWS)


def test_missing_directory_is_named(tmp_path):
    with pytest.raises(InvalidOptions, match=r"no directory .*nowhere"):
        FileFeatures(path=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["ids.npy", "features.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["missing", "rubbish", "empty"])
def test_damaged_file_is_named(directory, name, damage):
    (directory / name).unlink()
    if damage != "missing":
        (directory / name).write_bytes(b"rubbish" if damage == "rubbish" else b"")
    with pytest.raises(InvalidOptions, match=name):
        FileFeatures(path=str(directory))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"feature_names": "age"},
        {"feature_names": []},
        {"feature_names": ["a", "a"]},
        {"default_row": 1},
    ],
)
def test_wrong_meta_is_named(directory, changes):
    _rewritten_meta(directory, **changes)
    with pytest.raises(InvalidOptions, match=r"meta\.json"):
        FileFeatures(path=str(directory))


def test_arrays_that_do_not_fit_are_named(directory):
    _rewritten_meta(directory, default_row=True)
    with pytest.raises(InvalidOptions, match=r"features\.npy needs the shape \(6, 2\)"):
        FileFeatures(path=str(directory))


@pytest.mark.parametrize(
    "ids", [np.array(IDS), np.array(["1", "2", "2", "3", "4"]), np.arange(5), np.array([["1"]])]
)
def test_ids_that_cannot_be_searched_are_refused(directory, ids):
    np.save(directory / "ids.npy", ids)
    with pytest.raises(InvalidOptions, match=r"ids\.npy"):
        FileFeatures(path=str(directory))


def test_it_is_the_built_in_file_source():
    assert recserve_feature_sources() == {"file": FileFeatures}
