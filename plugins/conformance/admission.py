"""Checks that any admission filter must pass, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, get_args

from plugins.contracts import AdmissionFilter, Candidate, InsertOrigin

__all__ = ["check_admission_filter"]


class _Host:
    capacity = 20

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)  # noqa: S311  (what is random here is no secret)

    def drop_ghost(self, entry: Any) -> None:
        raise AssertionError(f"a filter drops the ghost {entry.key!r}: they are the policy's")


class _Victim:
    expires, weight, value = float("inf"), 1, None
    was_ghost = keep_ghost = False

    def __init__(self, key: str, uses: int, used: float) -> None:
        self.key, self.uses, self.used = key, uses, used


def check_admission_filter(factory: Callable[[], AdmissionFilter]) -> None:
    """Run a filter through seeded random questions, and verify it after each.

    Args:
        factory: Returns a new filter at each call.

    Raises:
        AssertionError: It raised, did not answer True or False, or refused by frequency what was
            warmed; the message says which.
    """
    for seed in range(3):
        made, random = factory(), Random(seed)  # noqa: S311
        name = type(made).__name__
        made.attach(_Host(seed))
        for step in range(500):
            candidate = Candidate(
                key=f"k{random.randrange(60)}",
                weight=random.randint(1, 20),
                size=random.choice((None, 1, 10_000)),
                cost=random.choice((None, 0.01)),
                origin=random.choice(get_args(InsertOrigin)),
                resident=random.random() < 0.2,
            )
            victim: Any = _Victim(f"k{random.randrange(60)}", random.randrange(20), step - 1.0)
            try:
                answers = (
                    made.admit(candidate, float(step)),
                    made.prefers(candidate, victim, float(step)),
                )
                if step % 100 == 99:
                    made.on_generation("ns", step, step + 1)
                made.check()
            except Exception as error:
                what = f"raised {type(error).__name__} at {candidate}: {error}"
                raise AssertionError(f"{name} {what} (step {step}, seed {seed})") from error
            for answer in answers:
                assert isinstance(answer, bool), f"{name} answers {answer!r}, not True or False"
            warmed = candidate.origin == "warmup" and candidate.size in {None, 1}
            assert not warmed or answers[1], f"{name} refuses {candidate.key!r}, which was warmed"
