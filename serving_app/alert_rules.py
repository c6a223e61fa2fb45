"""The rules that recserve comes with. They are made once, and are the operator's from then on."""

from __future__ import annotations

from typing import Any

__all__ = ["CHANNEL", "RULES"]

CHANNEL: dict[str, Any] = {"name": "log", "kind": "log", "options": {}}
"""The channel of every rule, until others are chosen."""

RULES: tuple[dict[str, Any], ...] = (
    {
        "name": "Hit rate dropped",
        "description": "The cache answers much less than in the same hour yesterday. See the "
        "analysis for when and for whom; a level may be away, or a model be new.",
        "severity": "warning",
        "metric": "hit_rate",
        "kind": "yesterday",
        "above": False,
        "threshold": -0.3,
        "clear": -0.2,
        "window": 900,
        "hold": 300,
        "least": 200,
    },
    {
        "name": "L2 does not answer",
        "description": "Processes do without L2: its breaker is open. Look at its Redis, or its "
        "file. Hits come from L1 alone, and the models compute more.",
        "severity": "critical",
        "metric": "level_up",
        "level": "l2",
        "above": False,
        "threshold": 0.5,
        "clear": 0.9,
        "window": 120,
    },
    {
        "name": "A model is not live",
        "description": "Production of some model is not live in every process, or the model host "
        "is away. The model's activations in the admin say why.",
        "severity": "critical",
        "metric": "live",
        "above": False,
        "threshold": 0.9,
        "clear": 0.99,
        "window": 180,
        "hold": 60,
    },
    {
        "name": "Requests fail",
        "description": "More than one in twenty requests fails by no fault of the caller. The log "
        "has the errors.",
        "severity": "critical",
        "metric": "error_rate",
        "threshold": 0.05,
        "clear": 0.02,
        "window": 300,
        "hold": 60,
        "least": 50,
    },
    {
        "name": "Stand-ins answer",
        "description": "More than one in twenty answers stood in for a model that could not "
        "answer.",
        "severity": "warning",
        "metric": "degraded_rate",
        "threshold": 0.05,
        "clear": 0.02,
        "window": 300,
        "hold": 60,
        "least": 50,
    },
    {
        "name": "Answers are slow",
        "description": "One in a hundred requests takes longer than a second. Set the threshold "
        "to what your callers wait.",
        "severity": "warning",
        "metric": "p99",
        "threshold": 1.0,
        "clear": 0.5,
        "window": 300,
        "hold": 120,
        "least": 100,
    },
    {
        "name": "Requests are refused",
        "description": "The models cannot keep up: more than 2 % of the requests are refused on "
        "arrival.",
        "severity": "warning",
        "metric": "refusal_rate",
        "threshold": 0.02,
        "clear": 0.01,
        "window": 300,
        "hold": 60,
        "least": 50,
    },
    {
        "name": "No serving process",
        "description": "No process tells what it counts. Only manage.py alerts, run by cron or a "
        "timer, can see that: a process that evaluates rules is there.",
        "severity": "critical",
        "metric": "processes",
        "kind": "absence",
        "window": 180,
        "hold": 60,
    },
)
