"""A drift rule: a change is another favourite."""

from plugins import DriftVerdict


class Favourite:
    """Drops what is cached when another term has become the heaviest.

    Args:
        by: How much heavier than the old favourite the new one must be.
    """

    def __init__(self, *, by: float = 0.1):
        if by < 0:
            raise ValueError("by must be at least 0")
        self._by = by

    def judge(self, case):
        old, new = _heaviest(case.before), _heaviest(case.now)
        if not old or not new:
            return DriftVerdict("keep", 0.0, "there is too little to go by")
        lead = max(0.0, case.now[new] - case.now.get(old, 0.0))
        distance = min(1.0, lead)
        if old == new or lead < self._by:
            return DriftVerdict("keep", distance, f"{old} is still the favourite")
        return DriftVerdict("drop", distance, f"{new} leads {old} by {lead:.2f}")


def _heaviest(profile):
    return max(profile, key=lambda term: (profile[term], term), default="")
