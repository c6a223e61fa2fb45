"""Which users get the canary: sticky, the same in every process, and only growing with its share.

Each user of a candidate version has a place from 0 to 9,999 by a hash of model, version and user.
The canary's share, in hundredths of a percent, is the number of places that are its own, counted
from 0. So a growing share moves users from production to the canary and none back, and another
candidate gets other users first.
"""

from __future__ import annotations

from hashlib import blake2b

from plugins import UserId

__all__ = ["WHOLE", "place"]

WHOLE = 10_000
"""Places; a share of so many hundredths of a percent is everyone."""


def place(model_name: str, candidate: int, user_id: UserId) -> int:
    """Return a user's place, 0 to 9,999. ``1`` and ``"1"`` are the same user.

    Python's own hash would not do: it differs from process to process.
    """
    # No model name has a slash, and a version is a number: no two questions are one string.
    text = f"{model_name}/{candidate}/{user_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") * WHOLE >> 64
