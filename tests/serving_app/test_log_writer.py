"""Lines that are written on a thread: all of them, in order, and nobody waits for it."""

import io
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving_app import request_log
from serving_app.core.request_record import RequestRecord
from serving_app.log_format import JSONFormatter
from serving_app.log_writer import Lines, LogWriter, write_lines
from tests.servers import wait_for

pytestmark = pytest.mark.contract("A8")


@pytest.fixture
def writer():
    """A factory of writers, which are closed."""
    made = []

    def make(write, **more):
        made.append(LogWriter(write, **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_everything_is_written_in_order(writer):
    written = []
    of_all = writer(written.extend)

    def put(thread):
        for n in range(500):
            of_all.put((thread, n))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(put, range(4)))
    wait_for(lambda: len(written) == 2000, what="the thread writes by itself")
    of_all.put("last")
    of_all.close()
    assert written[-1] == "last"
    for thread in range(4):
        assert [n for t, n in written[:-1] if t == thread] == list(range(500))
    of_all.put("after the end")
    assert written[-1] == "after the end"
    assert of_all.dropped == 0


def test_who_puts_never_waits_and_what_is_dropped_is_counted(writer, caplog):
    may, stuck, written = threading.Event(), threading.Event(), []

    def slow(items):
        stuck.set()
        assert may.wait(20)
        written.extend(items)

    full = writer(slow, capacity=3, pause=0.0)
    full.put(0)
    assert stuck.wait(20)
    for n in range(1, 10):
        full.put(n)  # and comes back, though nothing is written
    assert (written, full.dropped) == ([], 6)
    may.set()
    full.close()
    assert written == [0, 1, 2, 3]
    (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "6 lines of the log were dropped" in warning.getMessage()
    full.put(10)
    assert written[-1] == 10, "there is room again"


def test_a_log_that_is_stuck_does_not_keep_the_process(writer):
    may = threading.Event()
    stuck = writer(lambda _: may.wait(20), pause=0.0)
    stuck.put(1)
    stuck.close(timeout=0.05)
    may.set()


def test_what_cannot_be_written_costs_no_more_than_itself(writer, caplog):
    written = []

    def failing(items):
        if 1 in items:
            raise OSError("disk full")
        written.extend(items)

    some = writer(failing, pause=0.0)
    some.put(1)
    wait_for(lambda: caplog.records)
    assert "1 lines of the log could not be written" in caplog.records[0].getMessage()
    some.put(2)
    some.close()
    assert written == [2]


@pytest.fixture
def stream():
    """What the access log's own handler writes."""
    stream = io.StringIO()
    handler = Lines(stream)
    handler.setFormatter(JSONFormatter())
    level = request_log.logger.level
    request_log.logger.addHandler(handler)
    request_log.logger.setLevel(logging.INFO)
    yield stream
    request_log.write_at_once()
    request_log.logger.removeHandler(handler)
    request_log.logger.setLevel(level)


def test_a_line_that_is_deferred_is_the_line_that_is_not(stream):
    def finish(n, **more):
        request_log.finished(
            RequestRecord(f"call-{n}", "POST", "/api/v1/predict", status=200, model="m", **more),
            user_id=None if more else "someone@example.org",
        )

    finish(0)
    finish(1, user=request_log.user_hash("someone@example.org"))
    request_log.defer()
    finish(2)
    finish(3, user=request_log.user_hash("someone@example.org"))
    request_log.write_at_once()
    finish(4)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line.pop("request_id") for line in lines] == [f"call-{n}" for n in range(5)]
    times = [line.pop("time") for line in lines]
    assert times == sorted(times)
    assert all(line.pop("latency_ms") >= 0 for line in lines)
    assert lines == [lines[0]] * 5
    assert lines[0]["user"] == request_log.user_hash("someone@example.org")
    assert "someone" not in stream.getvalue()
    assert request_log.dropped() == 0


def test_a_process_that_was_forked_off_has_no_thread_and_writes_itself(stream):
    request_log.defer()
    writer = request_log._writer
    request_log._forked()
    request_log.finished(RequestRecord("call-1", "GET", "/x", status=200))
    assert json.loads(stream.getvalue())["request_id"] == "call-1"
    writer.close()


def test_handlers_and_filters_of_the_log_hold_for_many_lines(stream):
    parent, child = logging.getLogger("tried"), logging.getLogger("tried.b")
    parent.propagate = False
    heard = []
    other = logging.Handler()
    other.emit = heard.append
    many = Lines(stream)
    quiet = Lines(stream)
    quiet.setLevel(logging.ERROR)
    for handler in (other, many, quiet):
        parent.addHandler(handler)
    many.addFilter(lambda record: record.msg != "b")
    child.addFilter(lambda record: record.msg != "c")
    records = [
        logging.LogRecord("a.b", logging.INFO, "", 0, text, (), None) for text in ("a", "b", "c")
    ]
    write_lines(child, records)
    assert [record.msg for record in heard] == ["a", "b"]
    assert stream.getvalue() == "a\n"
    child.propagate = False
    write_lines(child, records)
    assert stream.getvalue() == "a\n"
    for each in (parent, child):
        each.handlers.clear()
        each.filters.clear()
