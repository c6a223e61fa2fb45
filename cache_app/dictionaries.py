"""Compression dictionaries: trained on the cached answers of a namespace, kept in the database.

An answer of some hundred bytes has little in itself to compress; what it has in common with other
answers, item ids above all, a dictionary holds once for all of them.

A new dictionary is written with from its second minute on, when every process can read it
(`cache_app.models.SPREAD`). The last four are kept, so that what was stored with an older one stays
readable; of one that is gone, entries are counted misses.
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random

import zstandard
from django.db import connection, transaction

from cache_app import wiring
from cache_app.conf import cache_settings
from cache_app.core.codec import WITH_DICTIONARY
from cache_app.models import CompressionDictionary, DictionaryTraining
from plugins.errors import LevelUnavailable

__all__ = ["FEWEST", "SAMPLES", "Trained", "Trainer", "compression", "newest", "store", "train"]

logger = logging.getLogger(__name__)

SAMPLES = 2000
"""Answers to train on."""
FEWEST = 100
"""Answers below which nothing is trained."""
_BYTES = 16 * 1024
_LEVEL = 1
"""zstd's level, as of `cache_app.core.codec.Codec`."""
_HELD_BACK = 5
"""Each so manieth answer is not trained on, but measured with."""
_GAIN = 0.95
"""A dictionary must bring answers below this part of what they take without."""
_BETTER = 0.90
"""What a new dictionary must bring answers below, of what they take with the one in use: to rotate
costs a dictionary of those that are kept, and with it the entries that still need it."""
_KEPT = 4
_EVERY = 3600.0
"""Seconds between two trainings at least."""
_INSERTIONS = 1000
"""Values that a process must have stored since it trained last."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A dictionary that was trained, and what it is worth."""

    data: bytes
    samples: int
    """Answers that it was trained on."""
    ratio: float
    """Compressed to raw bytes, of answers that it was not trained on."""
    plain_ratio: float
    """The same answers without a dictionary."""
    current_ratio: float | None = None
    """The same answers with the dictionary that is in use; None: there is none."""

    @property
    def worthwhile(self) -> bool:
        """Whether it saves enough to be used."""
        return self.ratio <= _GAIN * self.plain_ratio

    @property
    def better(self) -> bool:
        """Whether it is worth to take the place of the one in use, if there is one."""
        return self.worthwhile and (
            self.current_ratio is None or self.ratio <= _BETTER * self.current_ratio
        )


def train(samples: Sequence[bytes], current: bytes | None = None) -> Trained:
    """Return a dictionary trained on payloads; the same for the same payloads.

    Args:
        samples: Payloads, as `cache_app.core.codec.Codec.payload` returns them.
        current: The dictionary in use, which is measured on the same answers.

    Raises:
        ValueError: There are too few that are long enough for a dictionary, or they have nothing
            in common.
    """
    usable = _usable(samples)
    if len(usable) < FEWEST:
        raise ValueError(
            f"{len(usable)} cached answers of {WITH_DICTIONARY} bytes or more are too few to train "
            f"on; {FEWEST} are needed."
        )
    Random(0).shuffle(usable)  # noqa: S311  (it guards no secret)
    held_back = usable[::_HELD_BACK]
    rest: list[bytes | bytearray | memoryview] = [
        sample for i, sample in enumerate(usable) if i % _HELD_BACK
    ]
    try:
        data = zstandard.train_dictionary(_BYTES, rest, level=_LEVEL).as_bytes()
    except zstandard.ZstdError as error:
        raise ValueError(f"No dictionary can be made of these answers: {error}.") from error
    return Trained(
        data,
        len(rest),
        compression(held_back, data),
        plain_ratio=compression(held_back),
        current_ratio=None if current is None else compression(held_back, current),
    )


def compression(samples: Sequence[bytes], dictionary: bytes | None = None) -> float:
    """Return compressed to raw bytes of the payloads that a dictionary is for; 1 without any."""
    data = None
    if dictionary is not None:
        data = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_FULLDICT)
        data.precompute_compress(level=_LEVEL)
    compress = zstandard.ZstdCompressor(
        level=_LEVEL, dict_data=data, write_checksum=False, write_dict_id=False
    ).compress
    usable = _usable(samples)
    packed = sum(min(len(sample), len(compress(sample))) for sample in usable)
    return packed / sum(map(len, usable)) if usable else 1.0


def _usable(samples: Sequence[bytes]) -> list[bytes]:
    """Return those that a dictionary is tried for, each once: copies would flatter it."""
    return [sample for sample in dict.fromkeys(samples) if len(sample) >= WITH_DICTIONARY]


def newest() -> CompressionDictionary | None:
    """Return the newest dictionary of this namespace; None: there is none."""
    return CompressionDictionary.objects.filter(namespace=cache_settings().namespace).first()


def store(trained: Trained) -> CompressionDictionary:
    """Keep a dictionary for all processes, and forget all but the last four of the namespace.

    Returns:
        Its row; the one that is there already, if the same was trained before.
    """
    with transaction.atomic():
        list(DictionaryTraining.objects.select_for_update())  # one after the other
        number = 1 + zlib.crc32(trained.data) % 0xFFFF
        namespace = cache_settings().namespace
        there = {row.id: row for row in CompressionDictionary.objects.all()}
        while number in there:
            same_place = there[number].namespace == namespace
            if same_place and bytes(there[number].data) == trained.data:
                return there[number]
            number = number % 0xFFFF + 1
        row = CompressionDictionary.objects.create(
            id=number,
            namespace=namespace,
            data=trained.data,
            samples=trained.samples,
            ratio=trained.ratio,
        )
        ours = CompressionDictionary.objects.filter(namespace=namespace)
        kept = list(ours.values_list("id", flat=True)[:_KEPT])
        ours.exclude(id__in=kept).delete()
    return row


class Trainer:
    """Trains in the background, when there is reason to. One thread at a time calls `consider`.

    Of all processes of a namespace one trains, once an hour at most, which takes it a tenth of a
    second: it keeps the new dictionary if there is none yet, or if the same fresh answers, which
    neither was trained on, take a tenth less with it than with the one in use.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._not_before = float("-inf")
        self._stored = 0
        self._thread: threading.Thread | None = None

    def consider(self) -> None:
        """Begin to train on a thread of its own, if enough was stored since the last time."""
        if self._clock() < self._not_before or (self._thread and self._thread.is_alive()):
            return
        stored = max((stats.encoded for stats in wiring.codec_stats().values()), default=0)
        if stored - self._stored < _INSERTIONS:
            return
        self._not_before = self._clock() + _EVERY
        self._stored = stored
        self._thread = threading.Thread(target=self._run, name="dictionary-trainer", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until the training under way, if any, is done."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            train_in_turn()
        except (ValueError, LevelUnavailable) as error:
            logger.info("No compression dictionary was trained: %s", error)
        except Exception:  # the database may be away; the next hour comes
            logger.exception("No compression dictionary could be trained")
        finally:
            connection.close()


def train_in_turn() -> CompressionDictionary | None:
    """Train and keep a dictionary, if it is this process's turn, and a new one is better.

    The one in use is judged by answers that were computed after it: those it was trained on would
    flatter it. While there are too few of them, it stays.

    Raises:
        ValueError: There is none yet, and there are too few answers to train on.
        LevelUnavailable: They cannot be read.
        DatabaseError: The database does not answer.
    """
    if not DictionaryTraining.claim(cache_settings().namespace, timedelta(seconds=_EVERY)):
        return None
    current = newest()
    if current is None:
        trained = train(wiring.sample_payloads(SAMPLES))
    else:
        fresh = wiring.sample_payloads(SAMPLES, since=current.created.timestamp())
        if len(_usable(fresh)) < FEWEST:
            return None
        trained = train(fresh, bytes(current.data))
    if not trained.better:
        return None
    row = store(trained)
    logger.info(
        "Compression dictionary %s: answers take %.2f of their bytes, %.2f without, %s before",
        row.id,
        trained.ratio,
        trained.plain_ratio,
        "-" if trained.current_ratio is None else f"{trained.current_ratio:.2f}",
    )
    return row
