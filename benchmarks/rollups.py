"""What rolling ten million requests up costs: room in SQLite, time, and time of a request.

Run: ``python -m benchmarks.rollups [--quick] [--json]``. Two processes count requests of three
models by four segments, with latencies drawn from wide distributions, over 28 hours of a virtual
clock (100 a second), and roll them up every ten seconds, as the reconciler's thread does; old
minutes go meanwhile, as in a server. ``--quick``: a tenth of it. Reported: by how much the
database file has grown; rows; CPU of one process's writer per virtual second, which is the part of
a core that it takes; and what counting a request costs, beside where nothing is rolled up. The
sums are compared with what was counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

BARS = {"megabytes": 50.0, "core": 0.01}
"""Growth of the file for 10,000,000 requests; part of a core for one process's writer."""
RATE, TICK = 100, 10.0
MODELS, SEGMENTS = ("shop", "mail", "app"), ("new", "regular", "power", "all")
START = 1_764_000_000.0


def run(requests: int) -> dict[str, Any]:
    """Count and roll up, and return the figures."""
    from django.db import connection

    from plugins import Recommendation
    from serving_app import rollup_writer, rollups
    from serving_app.core.request_counts import RequestCounts
    from serving_app.core.statistics import Statistics
    from serving_app.rollup_conf import RollupSettings
    from serving_app.rollup_models import Rollup

    rng, now, settings = random.Random(0), [START], RollupSettings()
    processes = [
        (RequestCounts(), rollup_writer.RollupWriter(settings, clock=lambda: now[0]))
        for _ in range(2)
    ]
    answers = {
        source: Recommendation("u", ("a",), (1.0,), "m", 1, source)
        for source in ("l1", "l2", "model")
    }
    kinds = [("l1", "l1", -10.0), ("l2", "l2", -8.0), ("model", "miss", -5.5)]
    drawn = [
        (
            rng.choices(MODELS, (6, 3, 1))[0],
            rng.choices(SEGMENTS, (1, 4, 3, 2))[0],
            *rng.choices(kinds, (6, 2, 2))[0],
        )
        for _ in range(20_000)
    ]
    asked = [
        (model, answers[source], rng.lognormvariate(mean, 0.8), segment, lookup)
        for model, segment, source, lookup, mean in drawn
    ]
    before, each = _size(connection), int(RATE * TICK / 2)
    counting: list[float] = []
    writing, counted, place = 0.0, 0, 0
    while counted < requests:
        now[0] += TICK
        for counts, writer in processes:
            part = [asked[(place + n) % len(asked)] for n in range(each)]
            place += each
            began = time.process_time()
            for model, answer, seconds, segment, lookup in part:
                counts.count(model, answer, seconds, segment=segment, lookup=lookup)
            told = time.process_time()
            writer.tell(Statistics(models=counts.stats()), {}, {}, live={}, at_once=False)
            writing += time.process_time() - told
            counting.append((told - began) / each)
        counted += 2 * each
    after = _size(connection)
    for counts, writer in processes:
        writer.tell(Statistics(models=counts.stats()), {}, {}, live={}, at_once=True)
    days = rollups.series("requests", START, now[0] + 1, step="day")
    assert sum(point.value or 0 for point in days) == counted, "the sums are not the totals"
    rate = rollups.series("hit_rate", START, now[0], step="hour")
    return {
        "requests": counted,
        "megabytes": (after - before) / 1e6,
        "rows": Rollup.objects.count(),
        "core": writing / 2 / (now[0] - START),
        "count_us": statistics.median(counting) * 1e6,
        "count_without_us": _alone(asked) * 1e6,
        "hours": len(rate),
    }


def _alone(asked: list[tuple[Any, ...]]) -> float:
    """Return what counting a request costs where nothing is rolled up."""
    from serving_app.core.request_counts import RequestCounts

    counts, times = RequestCounts(), []
    for _ in range(20):
        began = time.process_time()
        for model, answer, seconds, segment, lookup in asked:
            counts.count(model, answer, seconds, segment=segment, lookup=lookup)
        times.append((time.process_time() - began) / len(asked))
    return statistics.median(times)


def _size(connection: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return Path(connection.settings_dict["NAME"]).stat().st_size


def main() -> None:
    """Run, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a million requests")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="recserve-rollups-") as folder:
        os.environ.update(
            {"RECSERVE_VAR": folder, "DJANGO_SETTINGS_MODULE": "recserve_project.settings"}
        )
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
        found = run(1_000_000 if given.quick else 10_000_000)
    if given.json:
        print(json.dumps(found))
        return
    print(
        f"{found['requests']:,} requests in {found['hours']} hours: {found['megabytes']:.1f} MB, "
        f"{found['rows']:,} sums (bar: {BARS['megabytes']:g} MB for 10,000,000)\n"
        f"one process's writer: {100 * found['core']:.2f} % of a core (bar: {BARS['core']:.0%})\n"
        f"counting a request: {found['count_us']:.2f} us, without rollups "
        f"{found['count_without_us']:.2f} us"
    )


if __name__ == "__main__":
    main()
