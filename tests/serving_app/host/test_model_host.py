"""A real host process: what it answers, shares, refuses, survives, and how it ends."""

import asyncio
import dataclasses
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from plugins import ArtifactRejected, InferenceError, ModelNotReady, Priority, QueueFull
from plugins.loading import load_plugins
from serving_app.core.engine import open_engine
from serving_app.host import protocol, sockets
from serving_app.host.channel import Channel
from serving_app.host.process import HostConfig
from serving_app.host.protocol import Kind, frame
from serving_app.host.supervisor import HostSupervisor, host_command, ping, socket_path
from tests.fragile import CRASH
from tests.journeys.conftest import ROOT, runs
from tests.serving_app.host.conftest import ITEMS, finish

pytestmark = pytest.mark.contract("S11")


def ask(engine, row, depth=5):
    return engine.submit((np.array(row, np.float32),), depth, seconds=30.0, priority=Priority.LIVE)


def wait_for(condition, what="", seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
    return value


def test_the_host_answers_as_this_process_would(installation):
    record = installation.linear()
    installation.start()
    hosted = installation.open(installation.client(), record)
    local = open_engine(
        record, store=installation.store, registry=load_plugins(), items=ITEMS, finish=finish
    )
    rows = np.random.default_rng(3).standard_normal((200, 3)).tolist()
    depths = [1 + n % (ITEMS + 3) for n in range(200)]
    answers = [ask(hosted, row, depth) for row, depth in zip(rows, depths, strict=True)]
    for row, depth, answer in zip(rows, depths, answers, strict=True):
        (positions, scores), expected = answer.result(30), ask(local, row, depth).result(30)
        assert positions == expected[0]
        # Batches of other sizes round otherwise.
        assert scores == pytest.approx(expected[1], rel=1e-4, abs=1e-5)
    inputs = {"features": np.array(rows[:7], np.float32)}
    asked = {"seconds": 30.0, "priority": Priority.LIVE}
    outputs = hosted.infer(inputs, **asked).result(30)
    expected = local.infer(inputs, **asked).result(30)
    assert list(outputs) == list(expected)
    for name, output in outputs.items():
        assert output.shape == expected[name].shape
        np.testing.assert_allclose(output, expected[name], rtol=1e-5)
    with pytest.raises(InferenceError, match="cannot be sent"):
        hosted.infer({"features": np.array([[1j]])}, **asked)
    hosted.probe()
    assert hosted.stats().submitted == 201
    assert local.stats().submitted == 201
    assert hosted.counted_by != local.counted_by
    local.close()


def test_clients_share_a_version_which_leaves_after_the_last_of_them(installation):
    record = installation.linear()
    installation.start()
    one, two = installation.client(), installation.client()
    first, second = installation.open(one, record), installation.open(two, record)
    other = installation.open(two, installation.linear(1))
    assert first.counted_by == second.counted_by != other.counted_by
    ask(first, [1, 2, 3]).result(30)
    ask(second, [1, 2, 3]).result(30)
    assert first.stats().submitted == second.stats().submitted == 2
    first.close()
    with pytest.raises(ModelNotReady, match="shutting down"):
        ask(first, [1, 2, 3])
    assert ask(second, [1, 2, 3]).result(30)
    second.close()

    # Long enough unused it leaves, and is loaded anew with counts of its own.
    def fresh():
        engine = installation.open(one, record)
        new = engine.counted_by != second.counted_by
        engine.close()
        time.sleep(0.3)
        return new

    wait_for(fresh, "the version never left")
    assert ask(other, [1, 2, 3]).result(30)


def test_a_worker_that_comes_back_soon_finds_its_version_loaded(installation):
    record = installation.linear()
    installation.start(linger=60.0)
    one = installation.client()
    first = installation.open(one, record)
    one.close()
    second = installation.open(installation.client(), record)
    assert second.counted_by == first.counted_by


def test_what_is_wrong_with_a_version_is_told_as_it_would_be_here(installation):
    record = installation.linear()
    installation.start()
    client = installation.client()
    (installation.store / record.artifact).write_bytes(b"damaged")
    with pytest.raises(ArtifactRejected, match="SHA-256 differs"):
        installation.open(client, record)
    engine = installation.open(client, installation.linear(1, max_queue=1))
    with pytest.raises(InferenceError, match=r"failed"):
        ask(engine, [1, 2]).result(30)
    assert ask(engine, [1, 2, 3]).result(30)
    assert client.state() == "ok"


def test_a_full_queue_and_a_withdrawn_question(installation):
    record = installation.fragile()
    installation.start()
    record = dataclasses.replace(record, max_batch=1, max_queue=2)
    engine = installation.open(installation.client(), record)
    slow = ask(engine, [777.0, 0, 0])
    wait_for(lambda: engine.stats().running == 1, "the slow row does not run")
    withdrawn, waits, refused = (ask(engine, [0, n, 0]) for n in range(3))
    with pytest.raises(QueueFull) as full:
        refused.result(30)
    assert full.value.retry_after > 0
    assert withdrawn.cancel()
    assert slow.result(30)
    assert waits.result(30)[1][0] == 1.0
    # Two batches and the one of the slow row; the withdrawn row never ran.
    assert sum(engine.stats().batch_sizes.values()) == 2


@pytest.mark.contract("S5")
def test_a_batch_waits_for_more_where_that_is_set(installation):
    installation.start()
    record = installation.linear(max_batch=2, max_wait=3600.0)
    engine = installation.open(installation.client(), record)
    first, second = (ask(engine, [n, 0, 0]) for n in range(2))
    assert first.result(30)
    assert second.result(30)
    assert (first.batch.size, second.batch.size) == (2, 2)


def test_a_row_that_becomes_urgent_overtakes_in_the_host(installation):
    record = dataclasses.replace(installation.fragile(), max_batch=1)
    installation.start()
    engine = installation.open(installation.client(), record)
    slow = ask(engine, [777.0, 0, 0])
    wait_for(lambda: engine.stats().running == 1, "the slow row does not run")
    order = []

    def queue(name):
        row = (np.array([0, 1, 0], np.float32),)
        answer = engine.submit(row, 5, seconds=30.0, priority=Priority.WARM_UP, key=f"é{name}")
        answer.add_done_callback(lambda _: order.append(name))
        return answer

    answers = {name: queue(name) for name in "abc"}
    engine.raise_priority(answers["c"], Priority.LIVE, seconds=20.0)
    engine.raise_priority(slow, Priority.LIVE)  # it runs already
    for answer in (slow, *answers.values()):
        assert answer.result(30)
    assert order[0] == "c"
    assert sorted(order) == ["a", "b", "c"]


@pytest.mark.parametrize("end", ["kill", "segfault"])
def test_a_host_that_ends_fails_what_is_under_way_and_comes_back(installation, end):
    supervisor = installation.start()
    client = installation.client()
    engine = installation.open(client, installation.fragile())
    linear = installation.open(client, installation.linear())
    pid = supervisor.pid
    wanted = ask(linear, [1, 2, 3]).result(30)
    slow = ask(engine, [777.0, 0, 0])
    if end == "kill":
        wait_for(lambda: engine.stats().running == 1)
        os.kill(pid, signal.SIGKILL)
    else:
        ask(engine, [CRASH, 0, 0])
    with pytest.raises(ModelNotReady, match="model host is away") as away:
        slow.result(30)
    assert away.value.retry_after >= 1.0

    def back():
        try:
            return ask(linear, [1, 2, 3]).result(30) == wanted
        except ModelNotReady:
            return False

    wait_for(back, "the host is not back")
    wait_for(lambda: client.state() == "ok", "not all versions are back")
    assert supervisor.pid not in {None, pid}
    assert ask(engine, [0, 3, 0]).result(30)[1][0] == 3.0


def test_a_version_that_ends_the_host_at_each_load_is_given_up_and_harms_no_other(installation):
    installation.start()
    client = installation.client()
    linear = installation.open(client, installation.linear())
    with pytest.raises(InferenceError, match="ended 3 times while it loaded fragile@1"):
        installation.open(client, installation.fragile(dies_at_load=True))
    wait_for(lambda: client.state() == "ok", "the other version is not back")
    assert ask(linear, [1, 2, 3]).result(30)


def test_answers_are_read_in_an_event_loop_and_survive_a_restart_there(installation):
    supervisor = installation.start()
    client = installation.client()
    engine = installation.open(client, installation.linear())
    wanted = ask(engine, [1, 2, 3]).result(30)

    def is_wanted(answer):
        return answer[0] == wanted[0] and answer[1] == pytest.approx(wanted[1], rel=1e-4)

    async def use():
        client.attach(asyncio.get_running_loop())
        asked = [asyncio.wrap_future(ask(engine, [1, 2, 3])) for _ in range(300)]
        assert all(map(is_wanted, await asyncio.gather(*asked)))
        os.kill(supervisor.pid, signal.SIGKILL)
        away = 0
        while not away or client.state() != "ok":
            try:
                assert is_wanted(await asyncio.wrap_future(ask(engine, [1, 2, 3])))
            except ModelNotReady:
                away += 1
            await asyncio.sleep(0.01)
        threads = set()
        last = ask(engine, [1, 2, 3])
        last.add_done_callback(lambda _: threads.add(threading.get_ident()))
        assert is_wanted(await asyncio.wrap_future(last))
        assert threads == {threading.get_ident()}
        client.detach()

    asyncio.run(asyncio.wait_for(use(), 60))
    assert is_wanted(ask(engine, [1, 2, 3]).result(30))


def test_thousands_from_many_threads_each_get_their_own_answer(installation):
    installation.start()
    client = installation.client()
    engine = installation.open(client, installation.fragile())
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(20):
            values = rng.integers(0, 10_000, 40).tolist()
            answers = [ask(engine, [0, value, 0], 1) for value in values]
            cancelled = {n for n, answer in enumerate(answers) if n % 3 == 0 and answer.cancel()}
            for n, (value, answer) in enumerate(zip(values, answers, strict=True)):
                if n not in cancelled and answer.result(30) != ([0], [float(value)]):
                    wrong.append((value, answer.result()))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not client._answers


@pytest.mark.parametrize(
    "rubbish",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        protocol.HEADER.pack(2**32 - 1, Kind.SUBMIT, 1),
        protocol.hello() + frame(Kind.SUBMIT, 1, b"short"),
        protocol.hello() + frame(Kind.LOAD, 1, b"\xc1 no MessagePack"),
        protocol.hello() + frame(Kind.ANSWER, 1, b"not for the host"),
        frame(Kind.HELLO, 0, protocol.HELLO.pack(b"recserve", 99)),
    ],
)
def test_rubbish_ends_its_connection_and_harms_nobody_else(installation, rubbish, capfd):
    installation.start()
    engine = installation.open(installation.client(), installation.linear())
    with sockets.connect(installation.socket, 30.0) as other:
        other.sendall(rubbish)
        while other.recv(4096):
            pass
    assert ask(engine, [1, 2, 3]).result(30)
    wait_for(lambda: "ends the connection of a client" in capfd.readouterr().err)


def test_only_this_user_can_connect(installation, monkeypatch):
    installation.start()
    wait_for(lambda: ping(installation.socket, 5.0))
    assert stat.S_IMODE(installation.socket.stat().st_mode) == 0o600
    with sockets.connect(installation.socket, 5.0) as connection:
        assert sockets.peer_uid(connection) == os.getuid()
    monkeypatch.setattr(sockets, "peer_uid", lambda _: 4711)
    with pytest.raises(PermissionError, match="user 4711"):
        sockets.connect(installation.socket, 5.0)


def test_a_path_too_long_for_a_socket_is_refused_or_avoided(tmp_path):
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    with pytest.raises(sockets.PathTooLong, match="at most 100 bytes"):
        sockets.bind(deep / "host.sock")
    path = socket_path(deep)
    assert path.parent != deep
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.parent.rmdir()
    assert socket_path(tmp_path).parent == tmp_path.resolve() or len(str(tmp_path)) > 80


def test_a_host_that_hangs_is_killed_and_started_again(installation):
    config = HostConfig(str(installation.socket), str(installation.store), ends_with_stdin=True)
    supervisor = HostSupervisor(host_command(config), installation.socket, hang=1.0)
    installation.supervisors.append(supervisor)
    supervisor.start()
    engine = installation.open(installation.client(), installation.linear())
    pid = supervisor.pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ModelNotReady):
        ask(engine, [1, 2, 3]).result(60)
    wait_for(lambda: supervisor.pid not in {None, pid})

    def back():
        try:
            return ask(engine, [1, 2, 3]).result(30)
        except ModelNotReady:
            return False

    wait_for(back)


def test_a_client_gives_up_a_host_that_says_nothing(tmp_path_factory):
    path = tmp_path_factory.mktemp("h") / "silent.sock"
    listener = sockets.bind(path)
    connection = sockets.connect(path, 10.0)
    other, _ = listener.accept()
    other.sendall(protocol.hello())
    channel = Channel(connection, lambda _: None, silence=0.5)
    assert channel.converse() == "the host has said nothing for 0.5 s"
    channel.close()
    other.close()
    listener.close()


def test_the_host_answers_what_it_has_accepted_before_it_ends(installation):
    supervisor = installation.start()
    engine = installation.open(installation.client(), installation.fragile())
    slow = [ask(engine, [777.0, n, 0]) for n in range(5)]
    wait_for(lambda: engine.stats().running == 1)
    stopping = threading.Thread(target=supervisor.stop)
    stopping.start()
    # It still serves its clients, who finish before it does.
    later = ask(engine, [0.0, 9.0, 0])
    assert [each.result(30)[1][0] for each in slow] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert later.result(30)[1][0] == 9.0
    installation.clients[0].close()
    stopping.join(30)
    assert supervisor.pid is None
    assert not installation.socket.exists()


def test_no_host_outlives_its_starter(installation):
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from serving_app.host.process import HostConfig\n"
        "from serving_app.host.supervisor import HostSupervisor, host_command\n"
        "config = HostConfig(sys.argv[1], sys.argv[2], ends_with_stdin=True)\n"
        "supervisor = HostSupervisor(host_command(config), Path(sys.argv[1]))\n"
        "supervisor.start()\n"
        "while supervisor.pid is None: time.sleep(0.01)\n"
        "print(supervisor.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code, str(installation.socket), str(installation.store)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    pid = int(starter.stdout.readline())
    wait_for(lambda: ping(installation.socket, 5.0))
    starter.kill()
    starter.wait()
    starter.stdout.close()
    wait_for(lambda: not runs(pid))
