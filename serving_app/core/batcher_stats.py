"""What a batcher counted, as plain values that those of other processes can be added to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from plugins import PoolCounts
from serving_app.core.cost_model import CostModel
from serving_app.core.latency import LatencyCounts
from serving_app.core.run_counts import RunCounts

__all__ = ["BatcherStats"]


@dataclass(frozen=True, slots=True)
class BatcherStats:
    """Counts since the batcher started."""

    submitted: int
    """Works accepted."""
    rejected: int
    """Works refused on arrival."""
    batches: int
    failed_batches: int
    """Batches that failed as a whole, so that their parts were tried apart."""
    queued: int
    running: int
    batch_sizes: dict[int, int]
    """Batches by size, rounded up to a power of two."""
    queue_seconds: LatencyCounts
    """From a work's arrival to its batch's start."""
    model_seconds: LatencyCounts
    """Of batches."""
    total_seconds: LatencyCounts
    """From a work's arrival to its result; those that failed are not in it."""
    rejected_by: dict[str, int] = field(default_factory=dict)
    """Refusals by reason: ``queue_full`` or ``deadline`` (it could not be met)."""
    expired: int = 0
    """Works whose deadline passed in the queue."""
    cancelled: int = 0
    """Works that their callers took out of the queue."""
    abandoned_batches: int = 0
    """Batches that took so long that they were given up."""
    cost_per_batch: float = 0.0
    """Seconds that a batch takes, whatever is in it: b of t(n) = b + a·n."""
    cost_per_row: float = 0.0
    """Seconds that each row adds: a."""
    pool: PoolCounts = field(default_factory=PoolCounts)
    runs: RunCounts = field(default_factory=RunCounts)
    """Runs of the model, which the engine counts."""
    failed_seconds: LatencyCounts = field(default_factory=lambda: LatencyCounts({}, 0.0, 0.0))
    """From a work's arrival to its error: the model's, or that its time was over."""
    memory: int | None = None
    """Bytes by which the process grew when the engine was opened; None: that is not known."""

    @classmethod
    def merged(cls, parts: Sequence[BatcherStats]) -> BatcherStats:
        """Return the counts of several batchers as one's; their costs weigh by batches."""
        sizes: Counter[int] = Counter()
        reasons: Counter[str] = Counter()
        for part in parts:
            sizes.update(part.batch_sizes)
            reasons.update(part.rejected_by)
        a, b = CostModel.mean(
            (part.cost_per_row, part.cost_per_batch, part.batches) for part in parts
        )
        return cls(
            submitted=sum(part.submitted for part in parts),
            rejected=sum(part.rejected for part in parts),
            batches=sum(part.batches for part in parts),
            failed_batches=sum(part.failed_batches for part in parts),
            queued=sum(part.queued for part in parts),
            running=sum(part.running for part in parts),
            batch_sizes=dict(sorted(sizes.items())),
            queue_seconds=LatencyCounts.merged(part.queue_seconds for part in parts),
            model_seconds=LatencyCounts.merged(part.model_seconds for part in parts),
            total_seconds=LatencyCounts.merged(part.total_seconds for part in parts),
            rejected_by=dict(sorted(reasons.items())),
            expired=sum(part.expired for part in parts),
            cancelled=sum(part.cancelled for part in parts),
            abandoned_batches=sum(part.abandoned_batches for part in parts),
            cost_per_batch=b,
            cost_per_row=a,
            pool=_pools([part.pool for part in parts]),
            runs=RunCounts.merged([part.runs for part in parts]),
            failed_seconds=LatencyCounts.merged(part.failed_seconds for part in parts),
            memory=_memory([part.memory for part in parts]),
        )


def _memory(parts: Sequence[int | None]) -> int | None:
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _pools(parts: Sequence[PoolCounts]) -> PoolCounts:
    """Return several pools as one."""
    return PoolCounts(
        instances=sum(part.instances for part in parts),
        busy=sum(part.busy for part in parts),
        least=sum(part.least for part in parts),
        most=sum(part.most for part in parts),
        grown=sum(part.grown for part in parts),
        shrunk=sum(part.shrunk for part in parts),
        replaced=sum(part.replaced for part in parts),
        stuck=sum(part.stuck for part in parts),
        load_seconds=max((part.load_seconds for part in parts), default=0.0),
    )
