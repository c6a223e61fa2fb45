"""``manage.py simulate_eviction``, on generated traces and on real ones where they are given."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from plugins.eviction.builtin import recserve_eviction_policies

pytestmark = pytest.mark.contract("C3")

DATA = os.environ.get("RECSERVE_DATA")
COMMAND = "simulate_eviction"


@pytest.fixture
def trace(tmp_path):
    random, ranks = Random(0), range(1, 501)
    ids = random.choices(ranks, [1 / rank for rank in ranks], k=4000)
    path = tmp_path / "trace.npz"
    np.savez(path, ids=np.array(ids, np.uint32), sizes=np.array([i % 7 + 1 for i in ids]))
    return path


def run(*args, **options):
    out, err = io.StringIO(), io.StringIO()
    call_command(COMMAND, *args, stdout=out, stderr=err, **options)
    return out.getvalue(), err.getvalue()


def ratios(*args):
    return json.loads(run(*args, "--json")[0].splitlines()[-1])


def test_json_has_sizes_as_given_and_belady_beside_the_policies(trace):
    found = ratios("--trace", str(trace), "--policies", "lru,s3fifo", "--sizes", "0.01, 0.10,50")
    assert set(found) == {"lru", "s3fifo", "belady"}
    for by_size in found.values():
        assert list(by_size) == ["0.01", "0.10", "50"]
        assert 0 < by_size["0.01"] < by_size["50"] < 1
    assert found["belady"]["50"] >= found["s3fifo"]["50"] > found["lru"]["50"]


def test_all_policies_by_default(trace):
    found = ratios("--trace", str(trace), "--sizes", "0.1")
    assert set(found) == {*recserve_eviction_policies(), "belady"}


def test_a_table_and_lines_of_progress(trace):
    out, err = run("--trace", str(trace), "--policies", "lru,fifo", "--sizes", "0.1,50")
    assert "belady" in out.splitlines()[4]  # the best on top
    assert "0.1 (" in out
    assert len(err.splitlines()) == 6
    assert "[6/6] belady with 50" in err


def test_sizes_of_the_trace_count_with_bytes(trace):
    by_entries = ratios("--trace", str(trace), "--policies", "lru,gdsf", "--sizes", "0.1")
    by_bytes = ratios("--trace", str(trace), "--policies", "lru,gdsf", "--sizes", "0.1", "--bytes")
    assert set(by_bytes) == {"lru", "gdsf"}
    assert by_bytes["gdsf"]["0.1"] > by_bytes["lru"]["0.1"]
    assert by_bytes["lru"] != by_entries["lru"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policies", "lrx"], "no eviction policy 'lrx'. Did you mean 'lru'"),
        (["--policies", ","], "names no policy"),
        (["--sizes", "0"], "size '0' is neither"),
        (["--sizes", "-5"], "size '-5' is neither"),
        (["--sizes", "1.5"], "size '1.5' is neither"),
        (["--sizes", "nan"], "size 'nan' is neither"),
        (["--sizes", "many"], "size 'many' is neither"),
        (["--sizes", " , "], "names no size"),
        (["--plot", "plot.pdf"], "ends in .png or .svg"),
        (["--plot", "no/such/folder/plot.png"], "no folder"),
    ],
)
def test_a_wrong_option_is_named(trace, options, message):
    options = [options[0] + "=" + options[1]]
    with pytest.raises(CommandError, match=message):
        run("--trace", str(trace), *options)


def test_a_trace_that_cannot_be_read_is_named(trace, tmp_path):
    with pytest.raises(CommandError, match=r"none\.npz cannot be read: No such file"):
        run("--trace", str(tmp_path / "none.npz"))
    (tmp_path / "rubbish.npz").write_bytes(b"rubbish")
    with pytest.raises(CommandError, match=r"rubbish\.npz: NumPy cannot read it"):
        run("--trace", str(tmp_path / "rubbish.npz"))
    (tmp_path / "t.txt").write_text("1\n2\n")
    with pytest.raises(CommandError, match="no sizes, which --bytes needs"):
        run("--trace", str(tmp_path / "t.txt"), "--bytes")


def test_without_matplotlib_it_says_what_to_install(trace, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(CommandError, match=r"requirements/extras\.txt"):
        run("--trace", str(trace), "--plot", "plot.png")


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_plot_is_written(trace, tmp_path, suffix):
    pytest.importorskip("matplotlib", reason="requirements/extras.txt is not installed")
    path = tmp_path / f"plot{suffix}"
    out, _ = run("--trace", str(trace), "--policies", "lru", "--plot", str(path))
    assert str(path) in out
    assert path.read_bytes()[:5] in {b"\x89PNG\r", b"<?xml"}


def test_ctrl_c_ends_it_cleanly(tmp_path):
    path = tmp_path / "long.npy"
    np.save(path, np.arange(3_000_000))
    with subprocess.Popen(
        [sys.executable, "manage.py", COMMAND, "--trace", str(path), "--sizes", "0.5"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stderr.readline().startswith("[1/")
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "CommandError: Interrupted."


@pytest.mark.skipif(DATA is None, reason="RECSERVE_DATA names no folder with real data")
@pytest.mark.parametrize("name", ["lirs_multi1.npz", "cache2k_web07.npz"])
def test_real_traces(name):
    path = Path(DATA) / "traces" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    policies = "lru,fifo,lirs,arc,s3fifo"
    found = ratios("--trace", str(path), "--policies", policies, "--sizes", "0.1")
    best = found.pop("belady")["0.1"]
    for by_size in found.values():
        assert by_size["0.1"] <= best
    assert found["lirs"]["0.1"] > found["lru"]["0.1"]
    assert found["arc"]["0.1"] >= found["lru"]["0.1"] >= found["fifo"]["0.1"]
