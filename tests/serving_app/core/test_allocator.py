import os
import subprocess
import sys

import pytest

CODE = """
import resource, sys, threading
import numpy as np
from serving_app.core.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory() == (sys.argv[2] == "glibc")
faults = []

def batches():
    for _ in range(60):
        tensors = [np.ones(700_000, dtype=np.float32) for _ in range(5)]
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        del tensors

thread = threading.Thread(target=batches)
thread.start()
thread.join()
print((faults[-1] - faults[9]) / 50)
"""


def faults_of_a_batch(how, libc):
    done = subprocess.run(
        [sys.executable, "-c", CODE, how, libc], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


@pytest.mark.contract("S5")
def test_a_batch_finds_the_memory_of_the_last_one_mapped():
    try:
        glibc = "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except ValueError:
        glibc = False
    kept = faults_of_a_batch("keep", "glibc" if glibc else "other")
    if glibc:
        assert kept < 10 < faults_of_a_batch("leave", "glibc")
