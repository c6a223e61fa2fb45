"""How the benchmarks sum the memory of processes that share some."""

from __future__ import annotations

import os

import pytest

from benchmarks.process_memory import Memory, of_process, of_processes, together

pytestmark = pytest.mark.contract("O6")

SMAPS = """\
7f00-7f10 r-xp 00000000 fe:00 1234    /srv/lib torch.so
Size:                400 kB
Rss:                 300 kB
Pss:                 150 kB
Anonymous:            20 kB
VmFlags: rd ex mr
7f20-7f30 rw-p 00000000 00:00 0
Size:                100 kB
Rss:                  80 kB
Pss:                  40 kB
Anonymous:            80 kB
"""


def test_what_was_written_of_a_file_is_the_process_s_own():
    assert of_process(SMAPS) == Memory(20 + 40, {"/srv/lib torch.so r-xp": 280})
    assert of_process(SMAPS).resident == 340


def test_a_file_that_several_have_mapped_counts_once():
    both = [Memory(10, {"a": 100, "b": 5}), Memory(20, {"a": 70})]
    assert together(both) == 10 + 20 + 100 + 5


def test_a_real_process_has_memory_of_both_kinds():
    (memory,) = of_processes([os.getpid()])
    assert memory.own > 1_000
    assert memory.files
