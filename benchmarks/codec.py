"""What cached answers of the demo's model weigh as envelopes, beside JSON, and what they cost.

Run: ``python -m benchmarks.codec [--quick] [--json]``. The demo's factorisation is trained on the
purchases under ``RECSERVE_DATA`` where that is set, on generated ones otherwise; the answers are
rankings of its users. The dictionary is trained on other users' answers. JSON is msgspec's of the
same ranking, whose bytes are orjson's: each score in the fewest digits that give the same double.
As many digits as a float32 needs (``--json``: ``json_float32``) would be the smallest JSON that
loses nothing, if its writer knew that the scores are float32.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import zstandard

from cache_app.core.codec import Codec
from cache_app.core.levels import Stored
from serving_app.core.ranking import Ranking
from serving_app.core.top_k import top_k
from serving_app.demo.generate import generate
from serving_app.demo.interactions import find_data, read_interactions
from serving_app.demo.train import train

BARS = {"plain": 0.65, "dictionary": 0.50, "microseconds": 6.0}
"""Bytes as ratios to JSON's, for 10 and 100 items; encoding and decoding 10 items together."""
DICTIONARY_BYTES = 16 * 1024


def rankings(depth: int) -> tuple[str, list[Stored]]:
    """Return what the answers are of, and each user's answer as a level would keep it."""
    if folder := os.environ.get("RECSERVE_DATA"):
        source = "online-retail"
        interactions = read_interactions(find_data(Path(folder) / "recs" / source)[0])
    else:
        source = "generated purchases"
        interactions, _ = generate()
    trained = train(interactions)
    scores = trained.user_factors @ trained.item_factors.T
    positions, best = top_k(scores, depth)
    items = interactions.item_ids
    rng = np.random.default_rng(0)
    # Answers are computed at any moment of a day, not all at once.
    moments = 1_764_000_000.0 + rng.random(len(scores)) * 86_400
    answers = [
        Stored(
            Ranking(tuple(items[p] for p in positions[i].tolist()), tuple(best[i].tolist()), False),
            moment,
            moment + 300.0,
        )
        for i, moment in enumerate(moments.tolist())
    ]
    return source, [answers[i] for i in rng.permutation(len(answers))]


def train_dictionary(codec: Codec, answers: Sequence[Stored]) -> bytes:
    """Return a dictionary trained on the payloads of answers."""
    payloads = [codec.payload(stored) for stored in answers]
    return zstandard.train_dictionary(DICTIONARY_BYTES, payloads, level=1).as_bytes()


def microseconds(call: Callable[[], object], rounds: int, calls: int) -> float:
    """Return the median over rounds of what a call costs in CPU time."""
    times = []
    for _ in range(rounds):
        started = time.thread_time_ns()
        for _ in range(calls):
            call()
        times.append((time.thread_time_ns() - started) / calls / 1000)
    return statistics.median(times)


def round_trips(codec: Codec, answers: Sequence[Stored]) -> Callable[[], object]:
    """Return a call that encodes and decodes one answer after another."""
    turn = iter(range(2**62))
    n = len(answers)

    def call() -> object:
        return codec.decode(codec.encode(answers[next(turn) % n]))

    return call


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")
    options = parser.parse_args()
    rounds, calls, most = (5, 2_000, 400) if options.quick else (25, 10_000, 2_000)
    results: dict[str, dict[str, float]] = {}
    source = ""
    for depth in (10, 100):
        source, answers = rankings(depth)
        half = len(answers) // 2
        others, asked = answers[:half][:most], answers[half:][:most]
        plain = Codec(Ranking, threshold=512)
        codecs = {
            "uncompressed": Codec(Ranking, threshold=2**31),
            "plain": plain,
            "dictionary": Codec(
                Ranking, dictionaries={1: train_dictionary(plain, others)}, threshold=512
            ),
        }
        as_json = [len(msgspec.json.encode(stored.value)) for stored in asked]
        shortest = [
            len(msgspec.json.encode({"items": v.items, "scores": [], "complete": v.complete}))
            + sum(len(str(np.float32(score))) + 1 for score in v.scores)
            - 1
            for v in (stored.value for stored in asked)
        ]
        row: dict[str, float] = {
            "json_bytes": statistics.mean(as_json),
            "json_float32_bytes": statistics.mean(shortest),
        }
        for name, codec in codecs.items():
            envelopes = [codec.encode(stored) for stored in asked]
            for stored, envelope in zip(asked, envelopes, strict=True):
                assert codec.decode(envelope) == stored, "a value came back changed"
            size = statistics.mean(map(len, envelopes))
            row[f"{name}_bytes"] = size
            row[f"{name}_ratio"] = size / row["json_bytes"]
            row[f"{name}_microseconds"] = microseconds(round_trips(codec, asked), rounds, calls)
        results[str(depth)] = row

    print(f"answers of the demo's factorisation on {source}, {len(asked)} users\n")
    print(f"{'items':>5} {'':14}{'bytes':>8}{'x JSON':>8}{'x JSON f32':>12}{'us, both ways':>15}")
    for depth, row in results.items():
        print(f"{depth:>5} {'JSON':14}{row['json_bytes']:8.0f}{1:8.2f}")
        for name in ("uncompressed", "plain", "dictionary"):
            size = row[f"{name}_bytes"]
            print(
                f"{'':>5} {name:14}{size:8.0f}{row[f'{name}_ratio']:8.2f}"
                f"{size / row['json_float32_bytes']:12.2f}{row[f'{name}_microseconds']:15.2f}"
            )
    print()
    for name in ("plain", "dictionary"):
        worst = max(row[f"{name}_ratio"] for row in results.values())
        verdict = "holds" if worst <= BARS[name] else "MISSED"
        print(f"{name} / JSON, the worse of both: {worst:.2f}, bar {BARS[name]}: {verdict}")
    slowest = max(results["10"][f"{name}_microseconds"] for name in ("plain", "dictionary"))
    verdict = "holds" if slowest <= BARS["microseconds"] else "MISSED"
    print(f"10 items, both ways: {slowest:.1f} us, bar {BARS['microseconds']}: {verdict}")
    if options.json:
        print(json.dumps({"source": source, "results": results}))


if __name__ == "__main__":
    main()
