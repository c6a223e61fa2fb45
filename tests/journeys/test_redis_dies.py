"""Under load over HTTP, what befalls Redis makes no answer fail. Its latencies: benchmarks."""

import pytest

from benchmarks.redis_dies import Load, serving, until_ok
from tests.faults import one
from tests.servers import wait_for

pytestmark = [pytest.mark.contract("C12"), pytest.mark.xdist_group("redis")]


def test_no_answer_fails_while_redis_stands_still_dies_is_full_and_talks_nonsense():
    with one() as arrangement, serving(arrangement.cache) as (url, token, users):
        until_ok(url, "l2")
        threads = [Load(url, token, users, number) for number in range(3)]
        for thread in threads:
            thread.start()

        def asked():
            return [each for thread in threads for each in thread.asked]

        try:
            for fault in arrangement.faults:
                before = len(asked())
                wait_for(
                    lambda n=before: any(each.source == "l2" for each in asked()[n:]),
                    what=f"L2 answers before: {fault.name}",
                )
                fault.inject()
                during = len(asked())
                wait_for(lambda n=during: len(asked()) > n + 60, what=f"answers: {fault.name}")
                fault.mend()
                until_ok(url, "l2")
        finally:
            for thread in threads:
                thread.ended.set()
            for thread in threads:
                thread.join(60)
        assert {each.status for each in asked()} == {200}
        assert {each.source for each in asked()} == {"l1", "l2", "model"}
