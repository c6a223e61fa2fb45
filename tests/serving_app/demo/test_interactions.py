"""Reading a shop's CSV files, and what is said about broken ones."""

from __future__ import annotations

import gzip
import lzma

import numpy as np
import pytest

from serving_app.demo.interactions import find_data, read_interactions, read_items, titles_of

GOOD = "user,item,rating,timestamp\nann,i2,3,100\nbob,i1,1.5,200\nann,i1,2,300\n"


def _written(path, text):
    open_ = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    with open_(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


@pytest.mark.parametrize("suffix", ["", ".xz", ".gz"])
def test_rows_become_columns(tmp_path, suffix):
    path = _written(tmp_path / f"interactions.csv{suffix}", GOOD)
    read = read_interactions(path)
    assert (read.user_ids, read.item_ids, len(read)) == (("ann", "bob"), ("i2", "i1"), 3)
    assert read.user_index.tolist() == [0, 1, 0]
    assert read.item_index.tolist() == [0, 1, 1]
    assert read.quantity.tolist() == [3, 1.5, 2]
    assert read.timestamp.tolist() == [100, 200, 300]
    kept = read.where(np.array([False, True, False]))
    assert (len(kept), kept.user_ids) == (1, read.user_ids)


def test_further_columns_and_a_byte_order_mark_do_no_harm(tmp_path):
    text = "\ufefftimestamp,colour,item,user,rating\n5,red,i,u,1\n"
    assert read_interactions(_written(tmp_path / "i.csv", text)).timestamp.tolist() == [5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,item,timestamp\na,b,1\n", r"i\.csv, line 1: no column rating"),
        ("", r"i\.csv, line 1: no column user, item, rating, timestamp.*it has nothing"),
        ("user,item,rating,timestamp\n", r"i\.csv has a header, but no rows"),
        (GOOD + "ann,i1,x,1\n", r"i\.csv, line 5, column rating: 'x' is not a number"),
        (GOOD + "ann,i1,-3,1\n", r"line 5, column rating: '-3' is not a number above zero"),
        (GOOD + "ann,i1,nan,1\n", r"line 5, column rating"),
        (GOOD + "ann,i1,1,inf\n", r"line 5, column timestamp"),
        (GOOD + "ann,i1,1,2011-01-01\n", r"line 5, column timestamp: '2011-01-01'"),
        (GOOD + "ann,i1,1,1e300\n", r"line 5, column timestamp"),
        (GOOD + ",i1,1,1\n", r"line 5, column user: '' is not an id"),
        (GOOD + "ann,,1,1\n", r"line 5, column item"),
        (GOOD + "ann,i1\n", r"line 5: no value for rating"),
    ],
)
def test_broken_file_is_named_with_line_and_column(tmp_path, text, message):
    path = _written(tmp_path / "i.csv", text)
    with pytest.raises(ValueError, match=message):
        read_interactions(path)


@pytest.mark.parametrize("name", ["i.csv", "i.csv.xz", "i.csv.gz"])
def test_damaged_file_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        read_interactions(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_interactions(tmp_path / f"missing-{name}")


def test_an_item_without_title_is_called_by_its_id(tmp_path):
    titles = read_items(_written(tmp_path / "items.csv", 'item,title\ni1,"Mug, blue"\ni2,\n'))
    assert titles_of(("i2", "i1", "i9"), titles) == ("i2", "Mug, blue", "i9")


def test_an_item_that_occurs_twice_is_named(tmp_path):
    path = _written(tmp_path / "items.csv", "item,title\ni1,Mug\ni1,\n")
    with pytest.raises(ValueError, match=r"items\.csv, line 3, column item: 'i1'"):
        read_items(path)


def test_data_is_found_in_a_folder_or_what_is_missing_is_said(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        find_data(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no interactions\.csv .* and no items\.csv"):
        find_data(tmp_path)
    interactions = _written(tmp_path / "interactions.csv.xz", GOOD)
    with pytest.raises(ValueError, match=r"has no items\.csv \(or items\.csv\.xz"):
        find_data(tmp_path)
    items = _written(tmp_path / "items.csv", "item,title\n")
    assert find_data(tmp_path) == (interactions, items)
