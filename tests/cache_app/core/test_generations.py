import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_app.core.generations import EVERYTHING, Generations, scope, scopes_of
from cache_app.core.keys import tags_of
from plugins import InvalidInput, LevelUnavailable

pytestmark = pytest.mark.contract("C8")

USERS = st.sampled_from(["a", "b", "1", "m"])
MODELS = st.sampled_from(["m", "n", "1:m"])
WHAT = st.one_of(
    st.just(EVERYTHING),
    USERS.map(lambda user: scope(user_id=user)),
    MODELS.map(lambda model: scope(model_name=model)),
    st.builds(lambda m, v: scope(model_name=m, version=v), MODELS, st.integers(1, 2)),
    st.builds(lambda m, u: scope(model_name=m, user_id=u), MODELS, USERS),
    st.sampled_from(["x", "y", "a"]).map(lambda tag: scope(tag=tag)),
    st.sampled_from(["new", "a"]).map(lambda segment: scope(segment=segment)),
)
KEYS = st.tuples(USERS, MODELS, st.integers(1, 2))
PLACES = st.tuples(st.sampled_from(["new", "all"]), st.sets(st.sampled_from(["x", "y", "a"])))


class Log:
    """Invalidations that several processes share."""

    def __init__(self):
        self.entries = []
        self.down = False

    def load(self, after):
        if self.down:
            raise LevelUnavailable("down")
        return [each for each in self.entries if each[0] > after]

    def add(self, what):
        self.entries.append((100 + len(self.entries), what))

    def process(self):
        return Generations(self.load, hint=lambda: len(self.entries))


def scopes(key, place=("all", ())):
    user, model, version = key
    segment, tags = place
    return scopes_of(user_id=user, model_name=model, version=version, segment=segment, tags=tags)


def of(generations, key, place=("all", ())):
    return generations.of(scopes(key, place))


@given(st.lists(WHAT, max_size=8), KEYS, PLACES, WHAT)
def test_a_generation_changes_exactly_when_something_that_covers_the_key_is_invalidated(
    before, key, place, what
):
    log = Log()
    for each in before:
        log.add(each)
    process = log.process()
    old = of(process, key, place)
    log.add(what)
    covers = what in scopes(key, place)
    assert (of(process, key, place) != old) == covers


def entry(user):
    return f"t:m:1-f00d:all:i{user}:-:-"


@given(st.lists(st.integers(0, 3), max_size=5), st.integers(0, 3), st.integers(0, 3))
def test_one_key_is_invalidated_and_no_other(before, key, what):
    log = Log()
    for user in before:
        log.add(scope(key=f"{entry(user)}:12"))
    process = log.process()
    old = process.of((EVERYTHING,), entry(key))
    log.add(scope(key=entry(what)))
    assert (process.of((EVERYTHING,), entry(key)) != old) == (key == what)


@pytest.mark.parametrize(
    "tags",
    ["x", 7, {"x": 1}, [""], ["x", 7], [None], ["a" * 101], ["a\n"], [f"{n}" for n in range(17)]],
)
def test_tags_that_are_none_are_refused_for_they_would_go_unnoticed(tags):
    with pytest.raises(InvalidInput, match="tag") as caught:
        tags_of({"tags": tags})
    assert caught.value.field.startswith("context.tags")


def test_tags_are_a_list_in_the_context():
    assert tags_of({}) == tags_of({"tags": None, "page": 1}) == ()
    assert list(tags_of({"tags": ["a" * 100, "all", "m:x"]})) == ["a" * 100, "all", "m:x"]


@given(st.lists(st.tuples(WHAT, st.booleans()), max_size=12), KEYS)
def test_processes_that_looked_at_different_times_agree(steps, key):
    log = Log()
    early = log.process()
    for what, looks in steps:
        log.add(what)
        if looks:
            of(early, key)
    assert of(early, key) == of(log.process(), key)


def test_scopes_that_read_alike_are_not_the_same():
    assert scope(model_name="1:m") != scope(model_name="m", version=1)
    assert scope(model_name="a:b", user_id="c") != scope(model_name="a", user_id="b:c")
    assert scope(user_id=7) == scope(user_id="7")
    assert scope() == EVERYTHING
    same = "m:1"
    assert len({scope(tag=same), scope(segment=same), scope(user_id=same), same}) == 4
    for wrong in ({"version": 1}, {"version": 1, "model_name": "m", "user_id": "u"}):
        with pytest.raises(ValueError, match="with its model"):
            scope(**wrong)
    for wrong in (
        {"tag": "x", "user_id": "u"},
        {"tag": "x", "segment": "y"},
        {"key": "k", "version": 1},
    ):
        with pytest.raises(ValueError, match="is invalidated alone"):
            scope(**wrong)
    for wrong in ({"tag": ""}, {"segment": "a" * 101}, {"tag": 7}):
        with pytest.raises(ValueError, match="1 to 100 printable characters"):
            scope(**wrong)
    for wrong in (
        "",
        "k",
        "t:m:1-f00d:all:i7:-",
        "t:m:1-f00d:all::-:-:0",
        f"{entry(7)}:0:0",
        "ü" * 8,
    ):
        with pytest.raises(ValueError, match="A key reads"):
            scope(key=wrong)


def test_in_doubt_nothing_that_was_stored_is_found_and_afterwards_all_that_is_valid():
    log = Log()
    process = log.process()
    sure = of(process, ("a", "m", 1))
    log.down = True
    log.add(scope(user_id="b"))
    doubtful = {of(process, ("a", "m", 1)) for _ in range(3)}
    assert sure not in doubtful
    log.down = False
    assert of(process, ("a", "m", 1)) == sure
    assert of(process, ("b", "m", 1)) != sure


def test_a_process_that_remembers_too_much_reads_all_anew_but_not_each_time(monkeypatch):
    monkeypatch.setattr("cache_app.core.generations._MOST", 5)
    log = Log()
    process = log.process()
    loads = []
    load = process._load
    process._load = lambda after: loads.append(after) or load(after)
    for user in range(14):
        log.add(scope(user_id=user))
        of(process, (str(user), "m", 1))
    assert loads.count(0) == 2  # at the beginning, and once beyond 5; next beyond 14
    log.entries = log.entries[-2:]
    process.refresh()
    assert of(process, ("13", "m", 1)) == "113"
    assert of(process, ("0", "m", 1)) == "100"
    process._read_anew_at = 13
    process.refresh()
    assert of(process, ("13", "m", 1)) == "113"
    assert of(process, ("0", "m", 1)) == "0"


def test_an_invalidation_is_seen_by_every_thread_from_the_moment_that_it_is_announced():
    log = Log()
    process = log.process()
    stale = []
    stopping = threading.Event()

    def client():
        while not stopping.is_set():
            announced = log.entries[-1][0] if log.entries else 0
            if int(of(process, ("a", "m", 1))) < announced:
                stale.append(announced)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    for _ in range(300):
        log.add(EVERYTHING)
        of(process, ("a", "m", 1))
    stopping.set()
    for thread in clients:
        thread.join(10)
    assert stale == []


def test_at_once_nothing_is_read_even_if_the_hint_moves_after_it_was_looked_at():
    read, hints = [], []

    def load(epoch):
        read.append(epoch)
        return []

    def hint():
        hints.append(len(hints))
        return moving[0] and hints[-1]

    moving = [False]
    generations = Generations(load, hint=hint)
    generations.refresh()
    assert generations.of_at_once(("all",)) == generations.of(("all",)) == "0"
    moving[0] = True  # from now on it is another one at each look
    before = len(read)
    for _ in range(5):
        assert generations.of_at_once(("all",)) is None
    assert len(read) == before
    assert generations.of(("all",)) == "0"
    assert len(read) == before + 1
