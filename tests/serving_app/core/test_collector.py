import gc
import weakref

import pytest

from serving_app import wiring
from serving_app.core.collector import settle, unsettle


@pytest.fixture(autouse=True)
def afterwards():
    yield
    unsettle()


class Knot:
    def __init__(self):
        self.itself = self


def test_collections_look_only_at_what_came_later():
    kept = [Knot() for _ in range(100)]
    settle()
    assert gc.get_freeze_count() > len(kept)
    before = {id(each) for each in gc.get_objects()}
    assert not before & {id(each) for each in kept}
    late = weakref.ref(Knot())
    gc.collect()
    assert late() is None


def test_what_was_set_aside_is_collected_when_it_settles_again():
    knot = Knot()
    gone = weakref.ref(knot)
    settle()
    del knot
    gc.collect()
    assert gone() is not None
    settle()
    assert gone() is None


def test_all_can_be_undone():
    before = gc.get_threshold()
    settle()
    assert gc.get_threshold() > before
    unsettle()
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == before


@pytest.mark.django_db
def test_a_web_process_settles_before_it_takes_requests_and_leaves_nothing_behind(
    live_model, monkeypatch
):
    monkeypatch.setattr(wiring.get_serving().reconciler.ready, "wait", lambda _: True)
    assert wiring.wait_until_ready()
    assert gc.get_freeze_count() > 0
    wiring.stop()
    assert gc.get_freeze_count() == 0
