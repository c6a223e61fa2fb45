"""What grows with the catalogue, with the live models, and with the users whose answers are cached.

Run: ``python -m benchmarks.growth [--quick] [--json] [--plot FILE]``; it needs PyTorch, and
matplotlib (``requirements/extras.txt``) for ``--plot``. Figures are microseconds of the processor
time of one process, threads of the model included, so that they say something on a busy machine;
medians of rounds. Every step has a process of its own.

- ``catalogue``: a miss (32 new users at a time, L1 and the embedded L2 as usual) of a TorchScript
  model, by items; beside it the bare model and the top-k of the same rows. No step may grow by a
  larger factor than the bare model does.
- ``models``: a hit through the lane's protocol class, and a miss, of users spread over so many live
  models of 1,000 items.
- ``users``: a hit, as above, of random users by how many are cached, and the memory of each.

A step from one size to the next of ``models`` and ``users`` may add no more to one request than
the bare model takes for one row with 10,000 items.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import uvloop

from benchmarks.contestants import ROOT, SET_UP
from benchmarks.http_load import BATCH, FEATURES, bodies, request_bytes
from benchmarks.lane import REQUESTS, Entrance
from benchmarks.process_memory import of_processes, together

PARTS = {
    "catalogue": (1_000, 10_000, 100_000, 1_000_000),
    "models": (1, 5, 10, 50),
    "users": (1_000, 10_000, 100_000, 1_000_000),
}
ROUNDS = 5
SLACK = 1.1
"""What a factor may be larger, as noise is."""

Step = dict[str, float]
"""Figures of a step: microseconds, and KiB."""


class Made(NamedTuple):
    """What was set up: the TorchScript file, and a token."""

    model: str
    token: str


def middle(measured: Callable[[], Any], requests: int, rounds: int = ROUNDS) -> float:
    """Return the median of the microseconds of processor time for each request."""
    spent = []
    for _ in range(rounds):
        started = time.process_time()
        measured()
        spent.append((time.process_time() - started) / requests * 1e6)
    return statistics.median(spent)


def misser(batches: int, models: int = 1) -> Callable[[], None]:
    """Return what asks for new users, 32 at a time."""
    from plugins import RecommendationRequest, RecserveError
    from serving_app import wiring

    recommender = wiring.get_recommender()
    number = itertools.count()
    row = [round(n / FEATURES, 6) for n in range(FEATURES)]

    def ask() -> None:
        for _ in range(batches):
            requests = [
                RecommendationRequest(f"miss-{n}", model_name=name(n % models), features=row)
                for n in itertools.islice(number, BATCH)
            ]
            for result in recommender.recommend_many(requests):
                if isinstance(result, RecserveError):
                    raise result

    ask()
    return ask


def name(number: int) -> str:
    """Return how a model is called."""
    return f"model-{number}" if number else "default"


def bare(model: str) -> float:
    """Return the microseconds of the model and the top-k alone, for each row of 32."""
    import torch

    from serving_app.core.top_k import top_k

    torch.set_num_threads(1)
    loaded = torch.jit.load(model)
    rows = torch.rand(BATCH, FEATURES)

    def call() -> None:
        with torch.inference_mode():
            top_k(loaded(rows).numpy(), 100)

    call()
    return middle(call, BATCH, 25)


def catalogue(_: int, made: Made) -> Step:
    """Measure a miss, and the bare model."""
    return {"bare": bare(made.model), "miss": middle(misser(4), 4 * BATCH)}


def add_models(number: int) -> None:
    """Register linear models of 1,000 items, and make them live."""
    from django.conf import settings

    from serving_app.registration import Draft, add, promote, validate

    store = Path(settings.RECSERVE["SERVING"]["MODEL_STORE"])
    rng = np.random.default_rng(1)
    np.savez(store / "linear.npz", weights=rng.random((FEATURES, 1_000), dtype=np.float32))
    (store / "few.csv").write_text(
        "item,title\n" + "".join(f"item-{n},Item\n" for n in range(1_000))
    )
    draft = Draft(
        artifact="linear.npz",
        framework="numpy_linear",
        catalogue="few.csv",
        feature_names=tuple(f"f{n}" for n in range(FEATURES)),
    )
    validated = validate("default", draft)
    for each in range(number):
        promote(add(name(each), draft, validated))


def models(number: int, made: Made) -> Step:
    """Measure hits and misses that are spread over models."""
    rows = list(itertools.islice(bodies("hit"), 2_000))
    asked = [
        request_bytes(
            made.token, b'{"model_name": "%s", %s' % (name(n % number).encode(), body[1:])
        )
        for n, body in enumerate(rows)
    ]
    hit = uvloop.run(hits(lambda: itertools.cycle(asked), fill=len(asked)))
    return {"hit": hit, "miss": middle(misser(20, number), 20 * BATCH)}


async def hits(
    requests: Callable[[], itertools.cycle[bytes]], *, fill: int = 0, rounds: int = ROUNDS
) -> float:
    """Return the microseconds of a hit, once so many requests have filled the cache."""
    from recserve_project.asgi import application
    from serving_app import wiring
    from serving_app.api.protocol import LaneProtocol

    wiring.attach(asyncio.get_running_loop())
    entrance = Entrance("protocol", LaneProtocol, application)
    await entrance.run(requests(), fill + REQUESTS)
    entrance.spent.clear()
    for _ in range(rounds):
        await entrance.run(requests())
    wiring.detach()
    return statistics.median(entrance.spent)


def users(number: int, made: Made) -> Step:
    """Measure hits of random users, and what each takes in memory."""
    from cache_app.wiring import get_levels
    from plugins import RecommendationRequest
    from serving_app import wiring
    from serving_app.core.ranking import Ranking

    recommender, levels = wiring.get_serving().recommender, get_levels()
    first = RecommendationRequest("first", features=[0.5] * FEATURES)
    recommender.recommend(first)
    stored = levels.peek(recommender.key(first))
    assert stored is not None, "it was just computed"
    before = together(of_processes([os.getpid()]))
    items, scores = stored.value.items, stored.value.scores
    kept: list[bytes] = []
    apart = max(1, number // 10_000)  # a request takes more memory than its entry: keep some
    for n, body in enumerate(itertools.islice(bodies("grown"), number)):
        value = json.loads(body)
        request = RecommendationRequest(value["user_id"], features=value["features"])
        # Each has a ranking of its own, as if it had been computed.
        ranking = Ranking(
            tuple(each for each in items), tuple(each + 0.0 for each in scores), complete=False
        )
        levels.store(recommender.key(request), ranking, ttl=3600.0)
        if n % apart == 0:
            kept.append(body)
    grown = together(of_processes([os.getpid()])) - before
    rng = random.Random(1)
    asked = [request_bytes(made.token, body) for body in kept]
    hit = uvloop.run(hits(lambda: itertools.cycle(rng.choices(asked, k=REQUESTS))))
    return {"hit": hit, "KiB a user": grown / number}


def step(part: str, size: int) -> Step:
    """Measure one step in this process, on an installation of its own."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(
            DJANGO_SETTINGS_MODULE="recserve_project.settings",
            RECSERVE_VAR=str(Path(folder) / "var"),
            RECSERVE_LOG_LEVEL="WARNING",
            RECSERVE_MODEL_HOST="off",
            OMP_NUM_THREADS="1",
        )
        items = size if part == "catalogue" else 10_000
        done = subprocess.run(
            [sys.executable, "-c", SET_UP, str(FEATURES), str(items)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
        )
        import django

        django.setup()
        from django.conf import settings

        from serving_app import wiring

        if part == "users":  # L1 alone, and room for all
            settings.RECSERVE["CACHE"] = {"L1": {"CAPACITY": 2_000_000}}
        if part == "models":
            add_models(size)
        settings.RECSERVE["SERVING"]["STARTUP_SECONDS"] = 600.0
        wiring.start()
        wiring.wait_until_ready()
        try:
            made = Made(*json.loads(done.stdout.splitlines()[-1]))
            return {"catalogue": catalogue, "models": models, "users": users}[part](size, made)
        finally:
            wiring.stop()


def worst_steps(found: dict[str, dict[int, Step]], row: float) -> dict[str, tuple[float, float]]:
    """Return the worst step of each figure, and the most that it may be.

    Args:
        found: The steps of each part.
        row: The microseconds of the bare model for a row with 10,000 items.
    """
    worst = {}
    if steps := list(found.get("catalogue", {}).values()):
        factors = [
            (later["miss"] / sooner["miss"]) / (later["bare"] / sooner["bare"])
            for sooner, later in itertools.pairwise(steps)
        ]
        if factors:
            worst["catalogue miss: factor of a step, of the bare model's"] = max(factors), SLACK
    for part in ("models", "users"):
        steps = list(found.get(part, {}).values())
        for figure in ("hit", "miss"):
            added = [b[figure] - a[figure] for a, b in itertools.pairwise(steps) if figure in a]
            if added:
                worst[f"{part} {figure}: µs added by a step"] = max(added), row
    return worst


def draw(found: dict[str, dict[int, Step]], file: str) -> None:
    """Draw what was found."""
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, len(found), figsize=(5 * len(found), 4), squeeze=False)
    for axis, (part, steps) in zip(axes[0], found.items(), strict=True):
        for figure in next(iter(steps.values())):
            if figure != "KiB a user":
                values = [each[figure] for each in steps.values()]
                axis.plot(list(steps), values, marker="o", label=figure)
        axis.set(xscale="log", xlabel=part, ylabel="µs of processor time")
        if part == "catalogue":
            axis.set(yscale="log")
        else:
            axis.set(ylim=(0, None))
        axis.legend()
    plt.tight_layout()
    plt.savefig(file)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without the largest step of each")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", default="", help="a file to draw into")
    parser.add_argument("--only", default=",".join(PARTS), help="some of %(default)s")
    parser.add_argument("--step", default="", help="a part and a size: measure that, here")
    arguments = parser.parse_args()
    if arguments.step:
        part, size = arguments.step.split(":")
        print(json.dumps(step(part, int(size))))
        return
    found: dict[str, dict[int, Step]] = {}
    for part in arguments.only.split(","):
        found[part] = {}
        for size in PARTS[part][: -1 if arguments.quick else None]:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.growth", "--step", f"{part}:{size}"],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                check=True,
            )
            figures: Step = json.loads(done.stdout.splitlines()[-1])
            found[part][size] = figures
            told = "  ".join(f"{figure} {value:9.2f}" for figure, value in figures.items())
            print(f"{part:10} {size:9,}  {told}", flush=True)
    row = found.get("catalogue", {}).get(10_000, {}).get("bare", float("nan"))
    worst = worst_steps(found, row)
    for what, (value, bar) in worst.items():
        print(f"{what}: {value:.2f} at worst   bar {bar:.2f}")
    if arguments.json:
        print(json.dumps({"steps": found, "worst": worst}))
    if arguments.plot:
        draw(found, arguments.plot)


if __name__ == "__main__":
    main()
