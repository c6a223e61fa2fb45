"""Every error recserve raises on purpose, by whose fault it is.

::

    RecserveError
    ├── BadRequest            the caller's fault; a fallback never answers it
    │   ├── ModelNotFound       no model of that name is registered
    │   ├── InvalidInput        a value of the request is wrong; names the field
    │   ├── TokenNotValid       the token is unknown, expired, revoked or forged
    │   ├── ExplanationNotPermitted  the caller may not ask how an answer came about
    │   ├── ModelNotPermitted   the caller may not ask this model
    │   └── Throttled           the caller asks too often; says when to come back
    ├── Unavailable           our fault; a stale entry or a fallback may answer
    │   ├── ModelNotReady       the model is registered, but not live in this process
    │   ├── InferenceError      the model raised, or returned nonsense
    │   ├── QueueFull           too much is queued already; says when to come back
    │   └── DeadlineExceeded    the answer would come too late
    ├── LevelUnavailable      a cache level does not answer; never leaves the cache
    ├── ArtifactRejected      a model version failed validation; names what is wrong
    └── PluginError           a plugin, or a name or option of one, is wrong
        ├── UnknownPlugin       no plugin of that kind has this name
        └── InvalidOptions      the options do not fit the plugin's parameters

HTTP status codes are given to them in one table, ``serving_app/api/problems.py``.
"""

from __future__ import annotations

__all__ = [
    "ArtifactRejected",
    "BadRequest",
    "DeadlineExceeded",
    "ExplanationNotPermitted",
    "InferenceError",
    "InvalidInput",
    "InvalidOptions",
    "LevelUnavailable",
    "ModelNotFound",
    "ModelNotPermitted",
    "ModelNotReady",
    "PluginError",
    "QueueFull",
    "RecserveError",
    "Throttled",
    "TokenNotValid",
    "Unavailable",
    "UnknownPlugin",
]


class RecserveError(Exception):
    """Base of every error that recserve raises on purpose."""


class BadRequest(RecserveError):
    """The caller asked for something that cannot be answered, now or later."""


class ModelNotFound(BadRequest):
    """No model of that name is registered."""


class InvalidInput(BadRequest):
    """A value of the request is wrong.

    Attributes:
        field: The name of the wrong field, such as ``features.age`` or ``k``.
        source: ``negative`` if the cache remembered it, else empty.
    """

    def __init__(self, message: str, *, field: str, source: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.source = source


class TokenNotValid(BadRequest):
    """The caller's token is unknown, expired, revoked or forged."""


class ExplanationNotPermitted(BadRequest):
    """The caller may not ask how an answer came about."""


class ModelNotPermitted(BadRequest):
    """The caller may not ask this model, whether or not there is one of that name."""


class Throttled(BadRequest):
    """The caller asks more often than allowed.

    Attributes:
        retry_after: Seconds after which the same request will be within the rate.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(RecserveError):
    """The request is fine, but it cannot be answered now; a fallback may answer."""


class ModelNotReady(Unavailable):
    """The model is registered, but no version of it answers in this process now.

    Attributes:
        retry_after: Seconds after which one may.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InferenceError(Unavailable):
    """The model raised, or returned something that is no answer."""


class QueueFull(Unavailable):
    """Too many requests are queued for this model.

    Attributes:
        retry_after: Seconds after which a new attempt is likely to be accepted.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(Unavailable):
    """The answer did not come before the request's deadline."""


class LevelUnavailable(RecserveError):
    """A cache level does not answer; the levels around it carry on."""


class ArtifactRejected(RecserveError):
    """A model version failed validation; the message says what is wrong and how to mend it."""


class PluginError(RecserveError):
    """A plugin is wrong, or a setting names or configures one wrongly."""


class UnknownPlugin(PluginError):
    """No plugin of that kind has this name."""


class InvalidOptions(PluginError):
    """The options do not fit the plugin's keyword-only parameters."""
