import numpy as np
import pytest

from plugins import InferenceError, InvalidInput, Priority, QueueFull
from serving_app.core.features import FeatureLayout
from serving_app.core.recent_rows import LARGEST_BATCH, RecentRows, warm
from serving_app.core.schema_layout import layout_of
from tests.fakes import FakeClock
from tests.serving_app.core.test_recommender import FakeVersion

pytestmark = pytest.mark.contract("S9")


class Version(FakeVersion):
    """Answers at once, or fails, row by row, as the test says."""

    def __init__(self, errors=()):
        super().__init__(held=True)
        self.errors = dict(errors)
        self.sizes = []
        self.clock = FakeClock()
        self.hangs_from = None

    def submit(self, row, depth, *, priority):
        assert priority == Priority.WARM_UP
        future = super().submit(row, depth, seconds=10.0, priority=priority, key=None)
        n = len(self.submitted) - 1
        if self.hangs_from is not None and n >= self.hangs_from:
            self.clock.advance(1)
        elif n in self.errors:
            future.set_exception(self.errors[n])
        else:
            self.answer(future, depth)
        return future


def rows(n):
    return [(np.array([i, 1], np.float32),) for i in range(n)]


def test_the_last_distinct_rows_are_kept_the_latest_first():
    recent = RecentRows(3)
    kept = rows(5)
    layout = FeatureLayout(("a", "b"))
    for row in [kept[0], kept[1], kept[2], kept[1], kept[3]]:
        recent.record("m", layout, row)
    kept[3][0][0] = 99  # a source may use its memory again
    assert [row[0] for (row,) in recent.of("m", layout)] == [3, 1, 2]
    assert next(row.tolist() for (row,) in recent.of("m", FeatureLayout(("b", "a")))) == [1, 3]
    assert recent.of("m", FeatureLayout(("a", "c"))) == []
    assert recent.of("other", layout) == []


def test_rows_of_several_arrays_are_for_the_same_schema_only():
    schema = [
        {"name": "age", "type": "float"},
        {"name": "seen", "type": "int", "input": "seen", "sequence": {"max_length": 3}},
    ]
    layout = layout_of((), schema, None)
    recent = RecentRows(3)
    row = layout.row({"age": 1, "seen": [1, 2, 3]})
    recent.record("m", layout, row)
    (found,) = recent.of("m", layout_of((), schema, None))
    assert [array.tolist() for array in found] == [array.tolist() for array in row]
    assert recent.of("m", FeatureLayout(("age", "seen"))) == []


def test_rows_are_replayed_in_growing_batches():
    version = Version()
    assert warm(version, rows(64), depth=5, seconds=10, clock=version.clock) == 64
    assert [row[0] for row, *_ in version.submitted] == list(range(64))
    assert {depth for _, depth, _ in version.submitted} == {5}
    assert LARGEST_BATCH == 16


def test_a_version_that_fails_on_many_is_refused_with_the_reason():
    errors = {n: InferenceError(f"row {n}") for n in (3, 5, 7)}
    with pytest.raises(InferenceError, match=r"default@1 failed on 3 of 20 .* the last: row 7"):
        warm(Version(errors), rows(20), depth=5, seconds=10)
    few = {n: InferenceError("") for n in (3, 5)}
    assert warm(Version(few), rows(20), depth=5, seconds=10) == 20
    wrong = {n: InvalidInput("", field="x") for n in range(20)}
    assert warm(Version(wrong), rows(20), depth=5, seconds=10) == 20, "the rows are to blame"


def test_a_version_that_hangs_is_not_waited_for_longer():
    version = Version()
    version.hangs_from = 3
    assert warm(version, rows(64), depth=5, seconds=2.0, clock=version.clock) == 3
    assert version.submitted[3][2].cancelled()


def test_a_short_queue_is_no_failure():
    version = Version()
    submit = version.submit

    def refuses_at_times(row, depth, *, priority):
        if len(version.submitted) == 5 and not version.sizes:
            version.sizes.append("full")
            raise QueueFull("", retry_after=1)
        return submit(row, depth, priority=priority)

    version.submit = refuses_at_times
    assert warm(version, rows(20), depth=5, seconds=10, clock=version.clock) == 20


def test_without_rows_there_is_nothing_to_do():
    assert warm(Version(), [], depth=5, seconds=10) == 0
