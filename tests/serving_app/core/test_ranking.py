import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins import ArtifactRejected
from serving_app.core.ranking import Catalogue, Ranking, read_catalogue


@pytest.mark.contract("S8")
@given(
    n=st.integers(0, 12),
    depth=st.integers(0, 12),
    k=st.integers(1, 12),
    exclude=st.frozensets(st.integers(0, 12).map(str)),
)
def test_cut_excludes_before_it_cuts_or_says_that_it_is_too_shallow(n, depth, k, exclude):
    whole = [str(i) for i in range(n)]
    held = whole[:depth]
    ranking = Ranking(tuple(held), tuple(-float(i) for i in range(len(held))), len(held) == n)
    expected = [item for item in whole if item not in exclude][:k]
    cut = ranking.cut(k, exclude)
    if cut is None:
        assert depth < k + len(exclude)
        assert not ranking.complete
    else:
        assert list(cut[0]) == expected
        assert [whole.index(item) for item in cut[0]] == [-score for score in cut[1]]


def test_a_title_is_found_by_item_and_an_unknown_item_is_its_own():
    catalogue = Catalogue(("a", "b"), ("Apple", "Bear"))
    assert [catalogue.title(item) for item in ("b", "a", "z")] == ["Bear", "Apple", "z"]


def test_a_catalogue_is_read_in_the_order_of_its_lines(tmp_path):
    path = tmp_path / "catalogue.csv"
    path.write_text('title,item,price\n"Tea, green",7,1\nCup,"3",2\n', "utf-8")
    catalogue = read_catalogue(path)
    assert catalogue.items == ("7", "3")
    assert catalogue.titles == ("Tea, green", "Cup")


@pytest.mark.contract("S1")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "must start with the header"),
        (b"id,name\n1,a\n", "must start with the header"),
        (b"item,title\n", "lists no items"),
        (b"item,title\n1,a\n1,b\n", "names 1 twice .row 3"),
        (b"item,title\n,a\n", "no item or title in row 2"),
        (b"item,title\n1\n", "no item or title in row 2"),
        (b"item,title\n1,\xff\n", "cannot be read"),
    ],
)
def test_a_bad_catalogue_is_rejected_with_the_line(tmp_path, content, says):
    path = tmp_path / "catalogue.csv"
    path.write_bytes(content)
    with pytest.raises(ArtifactRejected, match=says):
        read_catalogue(path)
