"""How a Redis lets recserve in: users, passwords, TLS, and what an alias of CACHES says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from redis.connection import SSLConnection, parse_url

from plugins.options import did_you_mean

__all__ = ["ACCESS", "ANYONE", "Access", "alias", "is_redis", "read_access", "redis_url"]

ACCESS = ("USERNAME", "PASSWORD", "TLS")
"""The keys of settings that `read_access` reads."""
_TLS = {"CA": "ssl_ca_certs", "CERT": "ssl_certfile", "KEY": "ssl_keyfile"}
"""The keys of ``TLS`` that name files, with redis-py's options."""
_BACKENDS = ("django_redis.cache.RedisCache", "django.core.cache.backends.redis.RedisCache")


@dataclass(frozen=True, slots=True)
class Access:
    """What a connection to a Redis presents, and expects."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int | None = None
    """Number of the database."""
    tls: Mapping[str, Any] | None = None
    """redis-py's options of TLS (``ssl_…``); None: what the URL says, or else none."""

    def login(self) -> dict[str, Any]:
        """Return redis-py's options without those of TLS."""
        given = {"username": self.username, "password": self.password, "db": self.db}
        return {key: value for key, value in given.items() if value is not None}

    def for_url(self) -> dict[str, Any]:
        """Return redis-py's options of a pool from a URL; ``rediss://`` itself brings TLS."""
        return {**self.login(), **(self.tls or {})}

    def for_pool(self) -> dict[str, Any]:
        """Return redis-py's options of a pool from an address."""
        if self.tls is None:
            return self.login()
        return {**self.login(), "connection_class": SSLConnection, **self.tls}

    def for_client(self) -> dict[str, Any]:
        """Return redis-py's options of a client from an address."""
        return {**self.login(), **({} if self.tls is None else {"ssl": True, **self.tls})}


ANYONE = Access()
"""No user, no password, no TLS, but for what a URL says."""


def redis_url(given: Any, where: str) -> str:
    """Return the URL of a Redis.

    Raises:
        ImproperlyConfigured: It is none.
    """
    try:
        parse_url(given)  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, AttributeError):
        # It may hold a password, and is not shown.
        raise ImproperlyConfigured(
            f"{where} must be a URL: redis://host:port/number, rediss://… or unix://path."
        ) from None
    return str(given)


def read_access(
    given: Mapping[str, Any], where: str, *, prefix: str = "", url: str | None = None
) -> Access:
    """Return what the keys ``USERNAME``, ``PASSWORD``, ``DB`` and ``TLS`` say, where they are.

    Args:
        given: The settings of a level.
        where: Their name, for messages.
        prefix: Before each key, such as ``SENTINEL_``.
        url: The server's URL, which must be of TLS if certificates are given; None: there is none.

    Raises:
        ImproperlyConfigured: A value is not one that its key takes.
    """
    texts = {}
    for key in ("USERNAME", "PASSWORD"):
        value = given.get(prefix + key)
        if value is not None and (not isinstance(value, str) or not value):
            raise ImproperlyConfigured(
                f'{where}["{prefix}{key}"] must be a text that is not empty.'  # nor shown
            )
        texts[key.lower()] = value
    if texts["username"] is not None and texts["password"] is None:
        raise ImproperlyConfigured(
            f'{where}["{prefix}USERNAME"] needs {prefix}PASSWORD: a Redis takes no user without it.'
        )
    db = given.get(f"{prefix}DB")
    if db is not None and (not isinstance(db, int) or isinstance(db, bool) or db < 0):
        raise ImproperlyConfigured(
            f'{where}["{prefix}DB"] must be the number of a database, not {db!r}.'
        )
    tls = _tls(given.get(f"{prefix}TLS"), f'{where}["{prefix}TLS"]')
    if url is not None and tls is not None and not url.startswith("rediss://"):
        raise ImproperlyConfigured(f'{where}["{prefix}TLS"] needs a URL that begins with rediss://')
    return Access(**texts, db=db, tls=tls)


def _tls(given: Any, where: str) -> Mapping[str, Any] | None:
    """Return redis-py's options of TLS; None if it is not wanted."""
    if given is None or given is False:
        return None
    if given is True:
        return MappingProxyType({})
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"{where} must be True, False or a dict, not {given!r}.")
    options: dict[str, Any] = {}
    for key, value in given.items():
        if key == "CHECK_HOSTNAME":
            if not isinstance(value, bool):
                raise ImproperlyConfigured(
                    f'{where}["{key}"] must be True or False, not {value!r}.'
                )
            options["ssl_check_hostname"] = value
        elif key not in _TLS:
            keys = (*_TLS, "CHECK_HOSTNAME")
            raise ImproperlyConfigured(
                f"{where} has no key {key!r}.{did_you_mean(key, keys)} Its keys: {', '.join(keys)}."
            )
        elif not isinstance(value, str | Path) or not Path(value).is_file():
            raise ImproperlyConfigured(f'{where}["{key}"] must be the path of a file: {value!r}.')
        else:
            options[_TLS[key]] = str(value)
    if ("ssl_certfile" in options) != ("ssl_keyfile" in options):
        raise ImproperlyConfigured(f"{where} must have both CERT and KEY, or neither.")
    return MappingProxyType(options)


def alias(name: Any, where: str) -> tuple[str, Access]:
    """Return the URL of an alias of ``CACHES``, and how it lets in.

    Its place, user, password and certificates count; its pool and time-outs do not.

    Raises:
        ImproperlyConfigured: There is no such alias, or it is no single Redis.
    """
    caches: Mapping[str, Any] = settings.CACHES
    if not isinstance(name, str) or name not in caches:
        raise ImproperlyConfigured(
            f"{where} must be an alias of CACHES, not {name!r}.{did_you_mean(str(name), caches)} "
            f"Its aliases: {', '.join(caches)}."
        )
    cache = caches[name]
    of_alias = f'CACHES["{name}"]'
    if not is_redis(cache.get("BACKEND")):
        raise ImproperlyConfigured(
            f"{where} names {of_alias}, whose BACKEND is no Redis: {cache.get('BACKEND')!r}. "
            f"It must be {_BACKENDS[0]!r}."
        )
    location = cache.get("LOCATION")
    if isinstance(location, list | tuple) and len(location) == 1:
        (location,) = location
    options = cache.get("OPTIONS") or {}
    if not isinstance(location, str) or "SENTINELS" in options:
        raise ImproperlyConfigured(
            f"{where} names {of_alias}, whose LOCATION is not one URL. For Sentinels, use L3."
        )
    url = redis_url(location, f'{of_alias}["LOCATION"]')
    of_pool = options.get("CONNECTION_POOL_KWARGS") or {}
    tls = {key: value for key, value in of_pool.items() if key.startswith("ssl_")}
    # As django-redis, what the pool is given goes before the options.
    login = {key: of_pool.get(key, options.get(key.upper())) for key in ("username", "password")}
    if urlsplit(url).scheme != "rediss":
        tls = {}
    return url, Access(**login, db=of_pool.get("db"), tls=MappingProxyType(tls) if tls else None)


def is_redis(backend: Any) -> bool:
    """Return whether a backend of ``CACHES`` keeps its values in a Redis."""
    return backend in _BACKENDS
