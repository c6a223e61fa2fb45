from hypothesis import given
from hypothesis import strategies as st

from serving_app.core.run_counts import RunCounter, RunCounts


def counted(runs, wall=lambda: 5.0):
    counter = RunCounter(wall=wall)
    for rows, seconds in runs:
        counter.ran(rows, at=(0.0, 1.0, 1.0 + seconds, 4.0 + seconds))
    return counter.counts()


@given(st.lists(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9)))))
def test_several_engines_count_as_one(parts):
    merged = RunCounts.merged([counted(part) for part in parts])
    runs = [run for part in parts for run in part]
    assert merged.by_size == counted(runs).by_size
    assert merged.runs == len(runs)
    assert merged.rows == sum(rows for rows, _ in runs)
    assert merged.last == (5.0 if runs else 0.0)


def test_each_part_of_a_run_is_counted_on_its_own():
    counter = RunCounter(wall=lambda: 7.0)
    counter.failed(2)
    counter.ran(3, at=(0.0, 1.0, 3.0, 7.0))
    counts = counter.counts()
    assert (counts.failed, counts.last, list(counts.by_size)) == (2, 7.0, [3])
    size = counts.by_size[3]
    assert (size.runs, size.input_seconds, size.infer_seconds, size.output_seconds) == (1, 1, 2, 4)
