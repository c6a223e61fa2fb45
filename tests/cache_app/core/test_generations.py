import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_app.core.generations import EVERYTHING, Generations, scope, scopes_of
from plugins import LevelUnavailable

pytestmark = pytest.mark.contract("C8")

USERS = st.sampled_from(["a", "b", "1", "m"])
MODELS = st.sampled_from(["m", "n", "1:m"])
WHAT = st.one_of(
    st.just(EVERYTHING),
    USERS.map(lambda user: scope(user_id=user)),
    MODELS.map(lambda model: scope(model_name=model)),
    st.builds(lambda m, v: scope(model_name=m, version=v), MODELS, st.integers(1, 2)),
    st.builds(lambda m, u: scope(model_name=m, user_id=u), MODELS, USERS),
)
KEYS = st.tuples(USERS, MODELS, st.integers(1, 2))


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


def of(generations, key):
    user, model, version = key
    return generations.of(scopes_of(user_id=user, model_name=model, version=version))


@given(st.lists(WHAT, max_size=8), KEYS, WHAT)
def test_a_generation_changes_exactly_when_something_that_covers_the_key_is_invalidated(
    before, key, what
):
    log = Log()
    for each in before:
        log.add(each)
    process = log.process()
    old = of(process, key)
    log.add(what)
    user, model, version = key
    covers = what in scopes_of(user_id=user, model_name=model, version=version)
    assert (of(process, key) != old) == covers


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
    for wrong in ({"version": 1}, {"version": 1, "model_name": "m", "user_id": "u"}):
        with pytest.raises(ValueError, match="with its model"):
            scope(**wrong)


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


def test_a_process_that_remembers_too_much_reads_all_anew(monkeypatch):
    monkeypatch.setattr("cache_app.core.generations._MOST", 5)
    log = Log()
    process = log.process()
    for user in range(10):
        log.add(scope(user_id=user))
        of(process, (str(user), "m", 1))
    log.entries = log.entries[-2:]
    process.refresh()
    process.refresh()
    assert of(process, ("9", "m", 1)) == "109"
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
