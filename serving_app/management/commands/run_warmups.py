"""``manage.py run_warmups``: warm-ups outside of the server's own processes."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections
from django.utils import timezone
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cache_app.conf import cache_settings
from plugins import RecserveError
from serving_app import warmup_runs, wiring
from serving_app.conf import AUTO, HOST_VARIABLE, serving_settings
from serving_app.host.supervisor import ping
from serving_app.warmup_models import WarmupRun, WarmupSchedule

_LOOK = 0.2
"""Seconds between two looks at a run's progress."""


class Command(BaseCommand):
    """Runs warm-ups."""

    help = (
        "Run the warm-up schedules that are due, and then end: for any cron. With names, run these "
        "now. With --forever, stay and run what becomes due: in place of the server's processes."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("schedules", nargs="*", metavar="SCHEDULE", help="run these now")
        parser.add_argument("--forever", action="store_true", help="until Ctrl-C or SIGTERM")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="print who would be warmed, and why; nothing is warmed or written",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object a line")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run, and say what came of it.

        Raises:
            CommandError: A schedule is unknown or cannot run, a run failed, or there is no level of
                the cache that the server's processes would see.
        """
        cache = cache_settings()
        if cache.l2 is None and cache.l3 is None and not options["dry_run"]:
            raise CommandError(
                "The cache is only L1, which each process has for itself: what this command warmed "
                'would be no use to the server. Set up an L2 (RECSERVE["CACHE"]["L2"]), or let the '
                "server's own processes run the schedules."
            )
        if options["dry_run"] and not options["schedules"]:
            raise CommandError("Name the schedules whose dry run you want.")
        runs = [_run_of(name) for name in options["schedules"]]
        with _serving(), _signals(_interrupt, signal.SIGTERM):
            try:
                if options["dry_run"]:
                    self._dry_run(runs, as_json=options["json"])
                elif runs:
                    self._run(runs, as_json=options["json"])
                elif options["forever"]:
                    self._forever()
                else:
                    self._run_due(as_json=options["json"])
            except KeyboardInterrupt:
                raise CommandError("Stopped.", returncode=130) from None

    def _forever(self) -> None:
        """Run what becomes due; told to end, finish the batch, and leave the rest to others."""
        scheduler = wiring.get_serving().warm_up

        def end(*_: object) -> None:
            scheduler.stop()

        with _signals(end, signal.SIGTERM, signal.SIGINT):
            scheduler.run_forever()

    def _dry_run(self, runs: list[WarmupRun], *, as_json: bool) -> None:
        runner = wiring.get_serving().warm_up.runner
        for run in runs:
            try:
                planned = list(runner.dry_run(run))
            except RecserveError as error:
                raise CommandError(str(error)) from error
            for each, skipped in planned:
                if as_json:
                    row = {
                        "schedule": str(run.schedule),
                        "user_id": each.request.user_id,
                        "context": each.request.context,
                        "score": each.score,
                        "reasons": each.reasons,
                        "fresh": skipped,
                    }
                    self.stdout.write(json.dumps(row))
                else:
                    context = json.dumps(each.request.context) if each.request.context else ""
                    self.stdout.write(
                        f"{each.request.user_id}  {context}  {each.score:.4g}  {each.reason}"
                        + ("  (fresh: skipped)" if skipped else "")
                    )

    def _run(self, runs: list[WarmupRun], *, as_json: bool) -> None:
        for run in runs:
            try:
                warmup_runs.request_run(run)
            except ValidationError as error:
                raise CommandError(" ".join(error.messages)) from error
        failed = [str(run.schedule) for run in runs if not self._follow(run, as_json=as_json)]
        if failed:
            raise CommandError(f"These did not end well: {', '.join(failed)}.")

    def _run_due(self, *, as_json: bool) -> None:
        """Run what is due, or waits, or was left behind by a process that died."""
        now = timezone.now()
        for schedule in warmup_runs.due_schedules(now):
            warmup_runs.start_due(schedule, now)
        warmup_runs.prune(now)
        waiting = WarmupRun.objects.filter(state__in=WarmupRun.ACTIVE).order_by("requested")
        ended = [self._follow(run, as_json=as_json, patient=False) for run in waiting]
        if not any(well is not None for well in ended) and not as_json:
            self.stdout.write("Nothing is due.")
        if False in ended:
            raise CommandError("A warm-up did not end well.")

    def _follow(self, run: WarmupRun, *, as_json: bool, patient: bool = True) -> bool | None:
        """Run one here, or wait for the process that does; return whether it ended well.

        Who is not patient waits for no other process, and gets None.
        """
        claim = warmup_runs.claim(timezone.now(), pk=run.pk)
        if claim is None and not patient:
            return None
        scheduler = wiring.get_serving().warm_up
        thread = None
        if claim is not None:
            thread = threading.Thread(target=_in_thread, args=(scheduler, claim))
            thread.start()
        try:
            self._show(run, thread)
        except KeyboardInterrupt:
            warmup_runs.stop(run)
            raise
        finally:
            if thread is not None:
                thread.join()
        run.refresh_from_db()
        told = {
            "run": run.pk,
            "schedule": None if run.schedule is None else run.schedule.name,
            "state": run.state,
            "candidates": run.candidates,
            "warmed": run.warmed,
            "fresh": run.fresh,
            "refused": run.refused,
            "errors": run.errors,
            "model_seconds": round(run.model_seconds, 6),
            "message": run.message,
        }
        if as_json:
            self.stdout.write(json.dumps(told))
        else:
            self.stdout.write(
                f"{run.schedule or run.model}: {run.get_state_display()}, {run.warmed} warmed, "
                f"{run.fresh} fresh already, {run.refused} refused, {run.errors} errors of "
                f"{run.candidates}. {run.message}".rstrip()
            )
        return run.state == WarmupRun.State.DONE

    def _show(self, run: WarmupRun, thread: threading.Thread | None) -> None:
        """Show the progress of a run until it is over."""
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        over = threading.Event()
        with Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        ) as bar:
            task = bar.add_task(str(run.schedule or run.model), total=None)
            while True:
                run.refresh_from_db()
                bar.update(task, total=run.candidates or None, completed=run.done)
                if not run.active or (thread is not None and not thread.is_alive()):
                    return
                over.wait(_LOOK)


def _run_of(name: str) -> WarmupRun:
    schedule = WarmupSchedule.objects.select_related("model").filter(name=name).first()
    if schedule is None:
        names = ", ".join(WarmupSchedule.objects.values_list("name", flat=True)) or "none"
        raise CommandError(f"There is no warm-up schedule {name!r}. There are: {names}.")
    try:
        return warmup_runs.run_of(schedule)
    except ValidationError as error:
        raise CommandError(f"{name}: {' '.join(error.messages)}") from error


def _in_thread(scheduler: Any, claim: warmup_runs.Claim) -> None:
    try:
        scheduler.run(claim)
    finally:
        connections.close_all()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def _signals(handler: Callable[..., None], *numbers: signal.Signals) -> Iterator[None]:
    """Let a handler have these signals for a while."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def _serving() -> Iterator[None]:
    """Have the models that are live, in the server's model host if one answers here."""
    found = _model_host()
    if found is not None:
        os.environ[HOST_VARIABLE] = str(found)
    try:
        wiring.start(warm_up=False)
        if not wiring.wait_until_ready():
            raise CommandError("The live models could not be loaded in time (STARTUP_SECONDS).")
        yield
    finally:
        wiring.stop()
        if found is not None:
            del os.environ[HOST_VARIABLE]


def _model_host() -> Path | None:
    """Return the socket of the model host that ``manage.py serve`` runs on this host, if any."""
    folder = getattr(settings, "VAR", None)
    if serving_settings().model_host != AUTO or os.environ.get(HOST_VARIABLE) or folder is None:
        return None
    sockets = sorted(Path(folder).resolve().glob("host-*.sock"))
    return next((each for each in sockets if ping(each, 1.0)), None)
