"""What the benchmark of single against batched prediction measures."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import batching

pytestmark = pytest.mark.contract("O6")


@pytest.fixture
def brief(monkeypatch):
    """Rounds so short that one call fills them."""
    measure = batching.measure
    monkeypatch.setattr(
        batching, "measure", lambda model, rounds, seconds, *, cut: measure(model, 1, 1e-4, cut=cut)
    )


def test_it_compares_single_bare_and_batched_calls_of_each_framework_over_batch_sizes(
    brief, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["batching", "--quick", "--json", "--items", "200"])

    batching.main()

    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(results) == {"TorchScript", "SavedModel", "ONNX"}
    for sizes in results.values():
        assert [int(size) for size in sizes] == list(batching.SIZES)
        for figures in sizes.values():
            assert all(figures[side] > 0 for side in ("single", "bare", "batched"))
            assert figures["efficiency"] > 0
