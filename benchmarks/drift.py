"""How well the drift rule tells a change of taste from more of the same, on a shop's purchases.

Run: ``python -m benchmarks.drift [--quick] [--json] [--terms title]``; ``RECSERVE_DATA`` names the
folder of real data, without which purchases are generated. Nobody has labelled the purchases, so
users are made of real invoices: one who stays the same has his own invoices in random order, one
who changes goes on with those of another user, whose taste is another by ``--apart``.
"""

from __future__ import annotations

import argparse
import csv
import json
import lzma
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from plugins.drift.cosine import CosineRule, cosine_distance
from plugins.drift_contracts import DriftCase, DriftRule
from serving_app.core.profiles import Profile, TitleTerms, prefix_terms, profile_of

HALF_LIFE = 30.0
BARS = {"changes_found": 0.9, "false_refreshes": 0.1}
"""The least part of changes to be found, and the most part of unchanged users to be refreshed."""

Line = tuple[float, str, float]
"""When, which item, how many."""
Terms = Callable[[str], Mapping[str, float]]


@dataclass
class Outcome:
    """What the rule did to one user."""

    judged: int = 0
    refreshed: int = 0
    delay: int | None = None
    """Invoices until the first refresh."""
    distances: list[float] = field(default_factory=list)


def read(folder: Path) -> tuple[dict[str, list[list[Line]]], dict[str, str]]:
    """Return each user's invoices in order, and the items' titles."""
    invoices: dict[str, dict[float, list[Line]]] = defaultdict(lambda: defaultdict(list))
    with lzma.open(folder / "recs/online-retail/interactions.csv.xz", "rt") as lines:
        for row in csv.DictReader(lines):
            at = float(row["timestamp"])
            invoices[row["user"]][at].append((at, row["item"], float(row["rating"])))
    with lzma.open(folder / "recs/online-retail/items.csv.xz", "rt") as lines:
        titles = {row["item"]: row["title"] for row in csv.DictReader(lines)}
    users = {user: [by[at] for at in sorted(by)] for user, by in invoices.items()}
    return users, titles


def generated(rng: Random) -> tuple[dict[str, list[list[Line]]], dict[str, str]]:
    """Return users who each like some of 20 kinds of things."""
    kinds = [f"kind{chr(97 + k)}" for k in range(20)]
    titles = {f"{k}-{n}": f"{kinds[k]} thing{chr(97 + n)}" for k in range(20) for n in range(26)}
    users = {}
    for user in range(300):
        liked = rng.sample(range(20), 2)
        users[f"u{user}"] = [
            [
                (float(86_400 * 7 * week), f"{rng.choice(liked)}-{rng.randrange(26)}", 1.0)
                for _ in range(rng.randint(2, 15))
            ]
            for week in range(16)
        ]
    return users, titles


def follow(
    rule: DriftRule, history: Sequence[list[Line]], then: Sequence[list[Line]], terms: Terms
) -> Outcome:
    """Return what the rule does to a user with a history who goes on in a certain way.

    Invoices are a week apart, whosever they were.
    """
    week = 7 * 86_400.0
    done, lines = Outcome(), []
    for number, invoice in enumerate(history):
        lines += [(number * week, item, value) for _, item, value in invoice]
    before: Profile = profile_of(lines, terms, half_life=HALF_LIFE)
    events = suspected = 0
    since = len(history)
    for number, invoice in enumerate(then, len(history)):
        lines += [(number * week, item, value) for _, item, value in invoice]
        events += len(invoice)
        now = profile_of(lines[-500:], terms, half_life=HALF_LIFE)
        seconds = (number - since) * week
        verdict = rule.judge(DriftCase(before, now, events, seconds, suspected, "events"))
        done.judged += 1
        done.distances.append(verdict.distance)
        suspected = suspected + 1 if verdict.suspects else 0
        if verdict.action != "keep":
            done.refreshed += 1
            if done.delay is None:
                done.delay = number - len(history) + 1
            before, events, suspected, since = now, 0, 0, number
    return done


def measure(
    users: Mapping[str, list[list[Line]]],
    terms: Terms,
    rng: Random,
    *,
    rule: DriftRule,
    pairs: int,
    apart: float,
) -> dict[str, float]:
    """Return how users who stay the same, and users who change, fare."""
    names = [user for user, invoices in users.items() if len(invoices) >= 12]
    whole = {
        user: profile_of([line for each in users[user] for line in each], terms, half_life=1e6)
        for user in names
    }
    same, changed, real = [], [], []
    for user in rng.sample(names, min(pairs, len(names))):
        shuffled = rng.sample(users[user], len(users[user]))
        half = len(shuffled) // 2
        same.append(follow(rule, shuffled[:half], shuffled[half : half + 12], terms))
        half = len(users[user]) // 2
        real.append(follow(rule, users[user][:half], users[user][half : half + 12], terms))
        others = [o for o in names if cosine_distance(whole[user], whole[o]) >= apart]
        if others:
            other = users[rng.choice(others)]
            changed.append(follow(rule, shuffled[:half], other[:12], terms))
    delays = sorted(each.delay for each in changed if each.delay is not None)
    return {
        "users": len(same),
        "pairs": len(changed),
        "changes_found": len(delays) / len(changed) if changed else 0.0,
        "median_invoices_to_find": delays[len(delays) // 2] if delays else 0.0,
        "false_refreshes": sum(each.refreshed > 0 for each in same) / len(same),
        "false_refreshes_per_look": sum(e.refreshed for e in same) / sum(e.judged for e in same),
        "refreshed_in_real_order": sum(each.refreshed > 0 for each in real) / len(real),
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer users")
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")
    parser.add_argument("--terms", default="title", help="title, item, or a number of characters")
    parser.add_argument("--apart", type=float, default=0.8, help="least distance of the others")
    parser.add_argument("--refresh-at", type=float, help="of the rule")
    parser.add_argument("--settle-at", type=float, help="of the rule")
    options = parser.parse_args()
    rng = Random(0)
    data = os.environ.get("RECSERVE_DATA")
    users, titles = read(Path(data)) if data else generated(rng)
    terms: Terms
    match options.terms:
        case "title":
            terms = TitleTerms(titles)
        case "item":
            terms = prefix_terms(0)
        case length:
            terms = prefix_terms(int(length))
    given = {
        name: value
        for name, value in (("refresh_at", options.refresh_at), ("settle_at", options.settle_at))
        if value is not None
    }
    found = measure(
        users,
        terms,
        rng,
        rule=CosineRule(**given),
        pairs=100 if options.quick else 1000,
        apart=options.apart,
    )
    print(f"{'real' if data else 'generated'} purchases, terms: {options.terms}\n")
    for name, value in found.items():
        print(f"{name:28}{value:10.3g}")
    holds = {
        "changes_found": found["changes_found"] >= BARS["changes_found"],
        "false_refreshes": found["false_refreshes"] <= BARS["false_refreshes"],
    }
    for name, bar in BARS.items():
        print(f"{name}: bar {bar}: {'holds' if holds[name] else 'MISSED'}")
    if options.json:
        print(json.dumps({"terms": options.terms, "holds": holds, **found}))


if __name__ == "__main__":
    main()
