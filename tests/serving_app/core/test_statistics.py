import json

import pytest

from cache_app.core.codec import CodecStats
from cache_app.core.lease_waits import LeaseStats
from cache_app.core.negative import NegativeStats
from serving_app.core.batcher import Batcher
from serving_app.core.latency import LatencyHistogram
from serving_app.core.request_counts import RecommenderStats
from serving_app.core.statistics import Statistics, VersionStats

pytestmark = pytest.mark.contract("S10")


def counted(seconds):
    histogram = LatencyHistogram()
    for each in seconds:
        histogram.record(each)
    return histogram.counts()


def statistics(number, works, engine="local"):
    batcher = Batcher(lambda batch: batch, name="m")
    for work in range(works):
        batcher.submit(work).result(10)
    batcher.close()
    return Statistics(
        models={
            "m": RecommenderStats(
                works,
                {"model": works},
                1,
                0,
                {"InvalidInput": 2},
                counted([0.01] * works),
                {"all": {"l1": works, "miss": 1}},
            )
        },
        versions={"m": {number: VersionStats("numpy_linear", 1, {engine: batcher.stats()})}},
        codecs={"l2": CodecStats(works, 2, {"size": 1}, 30, 20, 0.5, 0.25)},
        negative=NegativeStats(1, works, 2, 0),
        leases=LeaseStats(1, works, 0),
    )


def test_what_was_written_as_json_is_read_as_it_was():
    original = statistics(3, 5)
    assert Statistics.from_json(json.loads(json.dumps(original.as_json()))) == original
    with pytest.raises(ValueError, match="models"):
        Statistics.from_json({"models": {"m": {"requests": "many"}}})


def test_processes_add_up_by_model_and_version():
    merged = Statistics.merged(
        [statistics(1, 3, "one"), statistics(1, 4, "two"), statistics(2, 5, "two")]
    )
    model = merged.models["m"]
    assert (model.requests, model.by_source, model.stale) == (12, {"model": 12}, 3)
    assert (model.errors, model.seconds.count) == ({"InvalidInput": 6}, 12)
    one, two = merged.versions["m"][1], merged.versions["m"][2]
    assert (one.processes, one.batching.submitted, one.batching.batch_sizes) == (2, 7, {1: 7})
    assert (one.batching.total_seconds.count, one.batching.pool.instances) == (7, 2)
    assert (two.processes, two.batching.submitted) == (1, 5)
    assert model.lookups == {"all": {"l1": 12, "miss": 3}}
    assert merged.codecs == {"l2": CodecStats(12, 6, {"size": 3}, 90, 60, 1.5, 0.75)}
    assert merged.negative == NegativeStats(3, 12, 6, 0)
    assert merged.leases == LeaseStats(3, 12, 0)
    assert Statistics.merged([]) == Statistics()


def test_an_engine_that_processes_share_counts_once():
    earlier, later = statistics(1, 3, "host"), statistics(1, 4, "host")
    for order in ([earlier, later], [later, earlier], [later, earlier, later]):
        merged = Statistics.merged(order)
        assert merged.versions["m"][1].batching.submitted == 4
        assert merged.versions["m"][1].processes == len(order)
        assert merged.models["m"].requests == sum(part.models["m"].requests for part in order)
    again = Statistics.merged([merged, statistics(1, 2, "another")])
    assert again.versions["m"][1].batching.submitted == 6
