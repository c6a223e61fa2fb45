"""Settings become objects here: lazily, after a server has forked, and once per process."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from django.db import close_old_connections

from cache_app import wiring as cache_wiring
from cache_app.conf import cache_settings
from cache_app.core.negative import NegativeEntries
from cache_app.dictionaries import Trainer
from cache_app.epoch_file import EpochFile
from cache_app.plugin_switches import PluginSwitches
from cache_app.wiring import get_generations, get_leases, get_levels, refresh_dictionaries
from plugins import InferenceError, RecommendationRequest
from plugins.apps import get_registry
from serving_app import access, payload_log, process_statistics, rates, request_log, rollout, traces
from serving_app.activity import ActivityLog
from serving_app.activity_conf import activity_settings
from serving_app.alert_work import AlertWork
from serving_app.alerts import firing
from serving_app.conf import serving_settings
from serving_app.core import collector
from serving_app.core.engine import OpenEngine, open_engine
from serving_app.core.features import Row
from serving_app.core.hit_path import HitPath
from serving_app.core.live_models import PRODUCTION, Lease, LiveModels, Routes
from serving_app.core.live_version import LiveVersion, open_version
from serving_app.core.profiles import TitleTerms, prefix_terms
from serving_app.core.ranking import Ranking
from serving_app.core.recent_rows import RecentRows, warm
from serving_app.core.recommender import Recommender
from serving_app.core.segment_table import SegmentTable
from serving_app.core.shadow import Shadows
from serving_app.core.statistics import Statistics
from serving_app.core.version_record import VersionRecord
from serving_app.drift_conf import drift_settings
from serving_app.drift_watch import DriftWatch, Terms
from serving_app.host.client import HostClient
from serving_app.live_history import LiveHistory
from serving_app.metric_families import collected, of_engines_elsewhere
from serving_app.metrics import Teller
from serving_app.models import Alias, ModelVersion, ServedModel
from serving_app.reconciler import Reconciler, process_name
from serving_app.request_log import HTTP
from serving_app.rollup_conf import rollup_settings
from serving_app.rollup_writer import RollupWriter
from serving_app.segment_conf import segment_settings
from serving_app.segment_evaluation import EvaluationThread, Evaluator
from serving_app.segment_following import SegmentFollower
from serving_app.warmup_conf import warmup_settings
from serving_app.warmup_earnings import count_hits
from serving_app.warmup_runner import Runner
from serving_app.warmup_scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Serving:
    """The objects of this process."""

    live: LiveModels
    recommender: Recommender
    reconciler: Reconciler
    shadows: Shadows
    news: EpochFile | None
    host: HostClient | None
    """The model host that runs the models; None: this process does."""
    activity: ActivityLog
    warm_up: Scheduler
    segments: SegmentTable
    """The segments of users."""
    evaluation: EvaluationThread | None
    """Decides who belongs to which segment, and watches drift; None: other processes do."""
    drift: DriftWatch
    """Watches whether users' preferences change."""
    rollups: RollupWriter
    history: LiveHistory
    """What all processes told lately."""
    hits: HitPath
    """The event loop's way to what is in memory."""
    alerts: AlertWork


logger = logging.getLogger(__name__)

_lock = threading.Lock()
_serving: Serving | None = None
_started = False
_teller = Teller()


def get_serving() -> Serving:
    """Return this process's objects; build them on first use."""
    global _serving  # noqa: PLW0603  (one set of objects per process)
    if _serving is None:
        with _lock:
            if _serving is None:
                _serving = _build()
    return _serving


def built() -> bool:
    """Return whether `get_serving` has its objects, and waits for nothing."""
    return _serving is not None


def get_recommender() -> Recommender:
    """Return this process's recommender."""
    return get_serving().recommender


def titles(model_name: str, items: Sequence[str], number: int | None = None) -> list[str]:
    """Return the items' titles; an unknown item's is its id.

    Args:
        model_name: The model.
        items: Item ids.
        number: The version that answered, whose catalogue is used if it is live, else production's.
    """
    routes = get_serving().live.routes().get(model_name, Routes())
    version = next(
        (v for v in routes.versions if v.record.version == number), routes.aliases.get(PRODUCTION)
    )
    if version is None:
        return list(items)
    return [version.catalogue.title(item) for item in items]


def start(*, warm_up: bool = True) -> None:
    """Begin to follow the database. Servers call it when they are up; again does nothing.

    Args:
        warm_up: Whether to run warm-ups that are due, if settings say so, too.
    """
    global _started  # noqa: PLW0603  (one thread per process)
    serving = get_serving()
    close_old_connections()  # building read the database, and this thread may never again
    with _lock:
        if not _started:
            cache_wiring.start()
            if serving.host is not None:
                serving.host.start()
            serving.reconciler.start()
            if warm_up and warmup_settings().scheduler:
                serving.warm_up.start()
            if serving.evaluation is not None:
                serving.evaluation.start()
            serving.alerts.start()
            _started = True


def wait_until_ready() -> bool:
    """Return whether everything that can be live is, within `STARTUP_SECONDS` of settings.

    Servers call it before they take requests. What is there by then no longer counts in a garbage
    collection, which would hold every request.
    """
    ready = get_serving().reconciler.ready.wait(serving_settings().startup_seconds)
    collector.settle()
    return ready


def attach(loop: asyncio.AbstractEventLoop) -> None:
    """Let this event loop read the model host's answers, and Redis. The loop's thread calls it.

    Who reads an answer also stores it, and a thread would starve beside a busy loop.
    """
    serving = get_serving()
    cache_wiring.attach(loop)
    if serving.host is not None:
        serving.host.attach(loop)


def detach() -> None:
    """Undo `attach`. The loop's thread calls it."""
    if _serving is not None and _serving.host is not None:
        _serving.host.detach()
    cache_wiring.detach()


def wake() -> None:
    """Let the processes of this host that serve look at the database now."""
    if _serving is not None:
        _serving.reconciler.wake()
        if _serving.evaluation is not None:
            _serving.evaluation.wake()
    news = _open_news()
    if news is not None:
        news.advance(time.time_ns())
        news.close()


def _open_news() -> EpochFile | None:
    """Return the file by which processes of this host hear of changes; None: there is none.

    It lies beside the cache's epoch file, and is no part of it: a new alias invalidates nothing.
    """
    path = cache_settings().epoch_file
    if path is None:
        return None
    try:
        return EpochFile(path.with_name(f"{path.name}-routes"))
    except OSError:
        logger.exception("Other processes see changes of models only now and then")
        return None


def stop() -> None:
    """Finish the requests under way, free the models, and forget this process's objects."""
    global _serving, _started, _teller  # noqa: PLW0603  (one set of objects per process)
    with _lock:
        if _serving is not None:
            _serving.warm_up.stop()
            _serving.shadows.close()
            if _serving.evaluation is not None:
                _serving.evaluation.stop()
            _serving.alerts.stop()
            if _serving.host is not None:
                _serving.host.refuse()
            _serving.reconciler.stop()
            if _serving.host is not None:
                _serving.host.close()
            if _serving.news is not None:
                _serving.news.close()
            cache_wiring.reset()
        access.reset()
        rates.reset()
        traces.stop()
        collector.unsettle()
        _serving = None
        _started = False
        _teller = Teller()


def _look_around(
    trainer: Trainer | None,
    activity: ActivityLog,
    segments: SegmentFollower,
    history: LiveHistory,
) -> Callable[[], None]:
    """Return what the cache has to look for at each pass of the reconciler."""
    generations = get_generations()
    switches = PluginSwitches()

    def look_around() -> None:
        generations.refresh()
        switches.follow()
        access.refresh()
        payload_log.flush()
        activity.flush()
        segments.refresh()
        cache_wiring.settle_l1()
        history.look(watched=False)
        refresh_dictionaries()
        if trainer is not None:
            trainer.consider()

    return look_around


def _activated(model_name: str, version: int) -> None:
    """Tell the cache's policy, and plugins, that a version has gone live in this process."""
    cache_wiring.on_generation(model_name, 0, version)
    get_registry().announce_model_activated(model_name, version)


def _is_registered(label: str) -> bool:
    """Return whether there is such a model, or alias or version of a model."""
    name, _, alias = label.partition("@")
    if not alias:
        return ServedModel.objects.filter(name=name).exists()
    if alias.isdecimal():
        return ModelVersion.objects.filter(model__name=name, number=int(alias)).exists()
    return Alias.objects.filter(model__name=name, name=alias).exists()


def tell_metrics() -> None:
    """Tell the metrics of this process, up to now."""
    serving = get_serving()
    own = process_statistics.own(serving.live, serving.recommender, serving.shadows)
    _tell_metrics(own, serving.activity, serving.drift)


def _tell_metrics(own: Statistics, activity: ActivityLog, drift: DriftWatch) -> None:
    process = process_name()
    for name, samples in of_engines_elsewhere(own, process=process).items():
        _teller.tell_engine(name, samples)
    _teller.tell(
        collected(
            own,
            process_statistics.own_cache(),
            HTTP,
            process=process,
            activity_dropped=activity.dropped,
            log_dropped=request_log.dropped(),
            partitions=process_statistics.own_partitions(),
            alerts=firing(),
            drift=drift.counts(),
        )
    )


def roll_up(*, at_once: bool = False) -> None:
    """Add what this process counted to the rollups, if it is time for that."""
    serving = get_serving()
    own = process_statistics.own(serving.live, serving.recommender, serving.shadows)
    _roll_up(serving.live, serving.host, serving.rollups, own, at_once=at_once)


def _roll_up(
    live: LiveModels,
    host: HostClient | None,
    rollups: RollupWriter,
    own: Statistics,
    *,
    at_once: bool = False,
) -> None:
    routes, runs = live.routes(), host is None or host.state() != "away"
    wanted: Iterable[str] = ()
    if _serving is not None and _serving.reconciler.ready.is_set():  # before, it takes no requests
        rows = Alias.objects.filter(name=PRODUCTION)
        wanted = rows.values_list("model__name", flat=True)
    rollups.tell(
        own,
        process_statistics.own_cache(),
        HTTP.counts(),
        live={name: runs and PRODUCTION in routes.get(name, Routes()).aliases for name in wanted},
        at_once=at_once,
    )


def _tell(
    live: LiveModels,
    recommender: Recommender,
    shadows: Shadows,
    activity: ActivityLog,
    *,
    roll_up: Callable[..., None],
    drift: DriftWatch,
) -> None:
    """Let other processes know what this one counted, and judge roll-outs by what all did."""
    own = process_statistics.own(live, recommender, shadows)
    process_statistics.tell(process_name(), own, drift.counts())
    _tell_metrics(own, activity, drift)
    roll_up(own)
    rollout.evaluate()


def _sign_off(
    live: LiveModels,
    recommender: Recommender,
    activity: ActivityLog,
    roll_up: Callable[..., None],
) -> None:
    process_statistics.forget(process_name())
    _teller.leave()
    payload_log.flush()
    activity.flush(at_once=True)
    roll_up(process_statistics.own(live, recommender), at_once=True)


def _build() -> Serving:
    serving = serving_settings()
    cache = cache_settings()
    registry = get_registry()
    live = LiveModels(_is_registered)
    levels = get_levels()
    refresh_dictionaries()  # before a look-up meets an entry that needs one
    shadows = Shadows(live)
    rows = RecentRows(serving.recent_rows)
    socket = serving.host_socket()
    host = None if socket is None else HostClient(socket)
    opens: OpenEngine = open_engine
    if host is not None:
        opens = host.open_engine

    def computed(lease: Lease, row: Row, depth: int, ranking: Ranking) -> None:
        version = lease.version
        rows.record(version.record.model_name, version.layout, row)
        shadows.offer(lease, row, depth, ranking)

    def opened(record: VersionRecord) -> LiveVersion:
        version = open_version(
            record,
            store=serving.model_store,
            registry=registry,
            open_engine=opens,
        )
        recent = rows.of(record.model_name, version.layout)
        try:
            warm(version, recent, depth=serving.depth, seconds=serving.warm_seconds)
        except InferenceError:
            version.close()
            raise
        return version

    counting = activity_settings()
    activity = ActivityLog(counting, written=count_hits)
    grouping = segment_settings()
    segments = SegmentTable(grouping.users)
    tracing = traces.get_tracing()
    new_recommender = Recommender if tracing is None else tracing.recommender
    recommender = new_recommender(
        live,
        levels,
        get_generations(),
        fallback=registry.fallback,
        namespace=cache.namespace,
        freshness=cache.freshness,
        depth=serving.depth,
        negative=NegativeEntries(cache.negative_ttl),
        computed=computed,
        leases=get_leases(),
        runner=cache_wiring.get_runner(),
        asked=activity.asked if counting.record else None,
        plan_of=segments.plan_of,
    )
    rollups = RollupWriter(rollup_settings())
    alerts = AlertWork(process_name())
    rolls_up = functools.partial(_roll_up, live, host, rollups)
    drift = DriftWatch(process_name(), terms=_terms_of(live), renew=_renewer(recommender))
    news = _open_news()
    history = LiveHistory()
    reconciler = Reconciler(
        live,
        look_around=_look_around(
            Trainer() if cache.train_dictionaries else None,
            activity,
            SegmentFollower(segments, cache.freshness, cache_wiring.divide_l1),
            history,
        ),
        tell=functools.partial(
            _tell, live, recommender, shadows, activity, roll_up=rolls_up, drift=drift
        ),
        sign_off=functools.partial(_sign_off, live, recommender, activity, rolls_up),
        open_version=opened,
        activated=_activated,
        interval=serving.reconcile_seconds,
        news=(lambda: 0) if news is None else news.read,
        keep=serving.keep_seconds,
    )
    warm_up = Scheduler(Runner(recommender, live), ready=reconciler.ready.is_set)
    evaluator = Evaluator(process_name(), moved=lambda _: _tell_news(news))

    def look() -> bool:
        return bool(evaluator.evaluate(at_most=1.0)) | bool(drift.watch(at_most=1.0))

    def release() -> None:
        evaluator.release()
        drift.release()

    evaluation = None
    if grouping.evaluate:
        evaluation = EvaluationThread(look, release, grouping.evaluate_seconds)
    return Serving(
        live=live,
        recommender=recommender,
        reconciler=reconciler,
        shadows=shadows,
        news=news,
        host=host,
        activity=activity,
        warm_up=warm_up,
        segments=segments,
        evaluation=evaluation,
        drift=drift,
        rollups=rollups,
        alerts=alerts,
        history=history,
        hits=recommender.hit_path(activity.asked_of if counting.record else None),
    )


def _renewer(recommender: Recommender) -> Callable[[Sequence[RecommendationRequest]], None]:
    """Return what computes answers anew; those that fail are computed when they are asked for."""

    def renew(requests: Sequence[RecommendationRequest]) -> None:
        recommender.recommend_many(requests)

    return renew


def _terms_of(live: LiveModels) -> Terms:
    """Return what says what a model's items are about, by the titles of its live catalogue."""
    known: dict[str, tuple[str, TitleTerms]] = {}

    def terms(model: str, item: str) -> Mapping[str, float] | None:
        by = drift_settings().terms
        if isinstance(by, int):
            return prefix_terms(by)(item)
        version = live.routes().get(model, Routes()).aliases.get(PRODUCTION)
        if version is None:
            return None
        made = known.get(model)
        if made is None or made[0] != version.fingerprint:
            catalogue = version.catalogue
            titles = dict(zip(catalogue.items, catalogue.titles, strict=True))
            made = known[model] = (version.fingerprint, TitleTerms(titles))
        return made[1](item)

    return terms


def _tell_news(news: EpochFile | None) -> None:
    """Let the processes of this host look at the database now, this one too."""
    if news is not None:
        news.advance(time.time_ns())
