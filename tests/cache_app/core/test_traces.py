"""Reading traces: every kind, compressed or not, and rubbish."""

import lzma

import numpy as np
import pytest

from cache_app.core.traces import read_trace

pytestmark = pytest.mark.contract("C3")

IDS, SIZES = [7, 9, 7, 1, 9, 9], [10, 20, 10, 5, 20, 20]
CSV = "time,id,size\n" + "".join(f"0,{i},{s}\n" for i, s in zip(IDS, SIZES, strict=True))
TXT = "".join(f"{i}\n" for i in IDS)


def write(folder, name):
    path = folder / name.removesuffix(".xz")
    if path.suffix == ".npz":
        np.savez(path, ids=np.array(IDS, np.uint32), sizes=np.array(SIZES))
    elif path.suffix == ".npy":
        np.save(path, np.array(IDS, np.uint64))
    else:
        path.write_text(CSV if path.suffix == ".csv" else TXT)
    if name.endswith(".xz"):
        packed = folder / name
        packed.write_bytes(lzma.compress(path.read_bytes()))
        return packed
    return path


@pytest.mark.parametrize("kind", ["npz", "npy", "csv", "txt"])
@pytest.mark.parametrize("packed", ["", ".xz"])
def test_every_kind_gives_the_same_requests(tmp_path, kind, packed):
    trace = read_trace(write(tmp_path, f"trace.{kind}{packed}"))
    numbers = {}
    assert [numbers.setdefault(i, len(numbers)) for i in trace.ids.tolist()] == [0, 1, 0, 2, 1, 1]
    if kind in {"npz", "csv"}:
        assert trace.sizes.tolist() == SIZES
    else:
        assert trace.sizes is None
    assert len(trace) == 6


def test_ids_may_be_any_text(tmp_path):
    path = tmp_path / "trace.txt"
    path.write_text("\ufeffüser 1\n\n  user 2 \nüser 1\n", "utf-8")
    assert read_trace(path).ids.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "time,key\n1,2\n", "line 1: the header has no column 'id'"),
        ("t.csv", "", "line 1: the header has no column 'id'"),
        ("t.csv", "id,size\n1,2\n3,x\n", "line 3: the size 'x' is not a whole number"),
        ("t.csv", "id,size\n1,0\n", "line 2: the size is 0"),
        ("t.csv", f"id,size\n1,{10**30}\n", "must fit 63 bits"),
        ("t.csv", "id,size\n1,2\n3\n", "line 3: there are 1 fields, not 2"),
        ("t.csv", "id\n1\n\0\n", "line 3: a NUL"),
        ("t.csv", "id\n", "no request"),
        ("t.txt", "1\n2\n3\0\n", "line 3: a NUL"),
        ("t.txt", "\n \n", "no request"),
        ("t.txt", b"1\n\xff\xfe\n", "not UTF-8"),
        ("t.npz", b"rubbish", "NumPy cannot read it"),
        ("t.npz", b"PK\x03\x04rubbish", "NumPy cannot read it"),
        ("t.npy", b"", "t.npy"),
        ("t.npz.xz", b"rubbish", "damaged"),
        ("t.txt.xz", lzma.compress(b"1\n" * 999)[:-20], "damaged"),
        ("t.json", "[]", r"ends in \.npz"),
    ],
)
def test_rubbish_is_named_with_its_file_and_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        read_trace(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"keys": np.arange(3)}, "no array 'ids'"),
        ({"ids": np.zeros(3)}, "list of whole numbers, not float64"),
        ({"ids": np.zeros((3, 2), int)}, r"of shape \(3, 2\)"),
        ({"ids": np.arange(3), "sizes": np.ones(2, int)}, "3 ids, but 2 sizes"),
        ({"ids": np.arange(3), "sizes": np.array([1, 0, 1])}, "size 1 is 0"),
        ({"ids": np.array([], int)}, "no request"),
    ],
)
def test_arrays_that_are_no_trace_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read_trace(tmp_path / "t.npz")


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "t.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "t.npz", ids=np.array([{"a": 1}], dtype=object))
    for name in ("t.npy", "t.npz"):
        with pytest.raises(ValueError, match="allow_pickle"):
            read_trace(tmp_path / name)
