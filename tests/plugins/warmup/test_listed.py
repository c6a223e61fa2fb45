"""Who is on a list, or in a file."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins import InvalidOptions, Priority, RecommendationRequest
from plugins.conformance import check_warmup_strategy
from plugins.warmup.from_file import FromFile
from plugins.warmup.listed import FromList, best_of, read_request
from tests.plugins.warmup.activities import activity, limits, users

pytestmark = pytest.mark.contract("W1")


def chosen(strategy, limit=99, **more):
    return list(strategy.candidates(activity(**more), limit))


def test_a_list_conforms():
    requests = [{"user_id": n, "context": {"n": n % 3}, "score": n % 4} for n in range(40)]
    check_warmup_strategy(lambda: FromList(users=[1, "1", 1, "a"], requests=requests))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_file_conforms(tmp_path, form):
    path = tmp_path / f"who.{form}"
    lines = [json.dumps({"user_id": n % 30, "score": n % 4}) for n in range(40)]
    if form == "csv":
        lines = ["user_id,score", *(f"{n % 30},{n % 4}" for n in range(40))]
    path.write_text("\n".join(lines))
    check_warmup_strategy(lambda: FromFile(path=str(path)))


def test_users_come_in_the_order_of_the_list():
    strategy = FromList(users=["b", 1, "a", "1", "b"], context={"page": "home"})
    found = chosen(strategy, alias="canary")
    assert users(found) == ["b", 1, "a", "1"]
    assert found[0].request == RecommendationRequest(
        "b", "default", "canary", context={"page": "home"}, priority=Priority.WARM_UP
    )
    assert users(chosen(strategy, 2)) == ["b", 1]


def test_complete_requests_and_their_scores():
    requests = [
        {"user_id": "low", "score": 0.5},
        {"user_id": "high", "score": 3, "context": {"a": [1]}, "k": 500},
        {"user_id": "own", "features": {"age": 5}},
    ]
    found = chosen(FromList(requests=requests))
    assert users(found) == ["high", "own", "low"]
    high, own, _ = (each.request for each in found)
    assert (high.context, high.k) == ({"a": [1]}, 500)
    assert own.features == {"age": 5}


listed = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=30)


@given(listed, limits)
def test_the_best_of_a_long_list_are_those_of_the_sorted_one(given, limit):
    lines = [read_request({"user_id": user, "score": score}, "here") for user, score in given]
    best = {}
    for place, (user, score) in enumerate(given):
        if user not in best or best[user][0] > -score:
            best[user] = (-score, place)
    expected = sorted(best, key=best.get)[:limit]
    assert users(best_of(lines, activity(), limit, "why")) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nobody to warm"),
        ({"users": []}, "nobody to warm"),
        ({"users": "ann"}, "'users' must be a list"),
        ({"requests": {"user_id": 1}}, "'requests' must be a list"),
        ({"users": ["a", None]}, r"users\[1\]: user_id must be text or a whole number, not None"),
        ({"users": [True]}, r"users\[0\]: user_id"),
        ({"users": [""]}, r"users\[0\]: user_id"),
        ({"users": ["a"], "context": []}, "context must be a mapping"),
        ({"users": ["a"], "context": {"a": object()}}, "must be JSON"),
        ({"requests": ["a"]}, r"requests\[0\] must be a mapping with user_id, not 'a'"),
        ({"requests": [{}]}, r"requests\[0\]: user_id must be"),
        ({"requests": [{"user": 1}]}, "'user' is no field. Did you mean 'user_id'"),
        ({"requests": [{"user_id": 1, "k": 0}]}, "k must be a whole number from 1"),
        ({"requests": [{"user_id": 1, "score": -1}]}, "score must be a number, 0 or more"),
        ({"requests": [{"user_id": 1, "score": float("nan")}]}, "score"),
        ({"requests": [{"user_id": 1, "features": "x"}]}, "features must be a mapping or a list"),
        ({"requests": [{"user_id": "x" * 99, "k": "y" * 99}]}, r"not 'y{56}\.\.\."),
    ],
)
def test_what_is_wrong_with_a_list_is_named(options, message):
    with pytest.raises(InvalidOptions, match=message):
        FromList(**options)


def test_csv_with_contexts_scores_and_numbers(tmp_path):
    path = tmp_path / "who.csv"
    path.write_text(
        "\ufeffuser_id,context,score,k\n"
        '7,"{""page"": ""home"", ""n"": [1, ""1""]}",2,\n'
        "\n"
        "007,,3,50\n"
        '"a, b",{},,\n'
    )
    found = chosen(FromFile(path=str(path)))
    assert users(found) == ["007", "7", "a, b"]
    assert found[0].request.k == 50
    assert found[1].request.context == {"page": "home", "n": [1, "1"]}
    assert found[1].reason == "in who.csv"
    assert users(chosen(FromFile(path=str(path), numeric_users=True))) == ["007", 7, "a, b"]


def test_json_lines_keep_numbers_and_text_apart(tmp_path):
    path = tmp_path / "who.jsonl"
    path.write_text('{"user_id": 7}\n\n{"user_id": "7", "features": [1, 2.5]}\n')
    assert users(chosen(FromFile(path=str(path)))) == [7, "7"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("who.txt", "a", "must end in .jsonl or .csv"),
        ("who.csv", "", "is empty"),
        ("who.jsonl", "\n\n", "is empty"),
        ("who.csv", "user_id,score\n", "is empty"),
        ("who.csv", "user,score\n1,2\n", "line 1: the columns may be .* not 'user'"),
        ("who.csv", "score\n1\n", "line 1: .*user_id must be among"),
        ("who.csv", "user_id,user_id\n1,1\n", "line 1: .* each once"),
        ("who.csv", "user_id\na\n", None),
        ("who.csv", "user_id,score\na,b\n", "line 2, column score: it is no JSON"),
        ("who.csv", "user_id,score\na\n", "line 2: 1 values for 2 columns"),
        ("who.csv", 'user_id\n"a\n', "line 2: unexpected end of data"),
        ("who.csv", "user_id,context\na,[]\n", "line 2: context must be a mapping"),
        ("who.csv", "user_id\n" + "a" * 100_001, "line 2: it is longer than 100000"),
        ("who.jsonl", '{"user_id": 1', "line 1: it is no JSON"),
        ("who.jsonl", '\n{"user_id": null}', "line 2: user_id must be"),
        ("who.jsonl", "[" * 50_000, "line 1: it is no JSON"),
        ("who.jsonl", "7", "line 1 must be a mapping"),
        ("who.jsonl", "x" * 100_001, "line 1: it is longer"),
        ("who.jsonl", b"\xff\xfe{", "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_file_is_named_with_its_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if message is None:
        assert users(chosen(FromFile(path=str(path)))) == ["a"]
        return
    with pytest.raises(
        InvalidOptions, match=f"{name}.*{message}" if "line" in message else message
    ):
        FromFile(path=str(path))


def test_nothing_is_chosen_out_of_a_file_with_a_wrong_line(tmp_path):
    path = tmp_path / "who.csv"
    path.write_text("user_id,score\na,1\nb,1\nc,x\n")
    strategy = FromFile(path=str(path))  # its first line is good
    with pytest.raises(InvalidOptions, match=r"who.csv, line 4, column score"):
        next(iter(strategy.candidates(activity(), 1)))
    path.unlink()
    with pytest.raises(InvalidOptions, match=r"who.csv cannot be read"):
        chosen(strategy)
