"""The model of the benchmark behind Triton's Python backend, with its batching on.

``triton_app MODEL HTTP_PORT GRPC_PORT METRICS_PORT``, run by the Python of `scripts/make-peers`:
pytriton (0.7.0) brings Triton's server, and starts under Python 3.11 up to 3.11.6 only.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def ranker() -> Any:
    """Return what ranks a batch."""
    import torch

    torch.set_num_threads(1)
    model = torch.jit.load(sys.argv[1])

    @batch
    def rank(features: Any) -> dict[str, Any]:
        with torch.inference_mode():
            best = torch.topk(model(torch.from_numpy(features)), 10)
        return {"scores": best.values.numpy(), "positions": best.indices.numpy()}

    return rank


if __name__ == "__main__":
    _http, _grpc, _metrics = map(int, sys.argv[2:5])
    where = TritonConfig(
        http_address="127.0.0.1",
        http_port=_http,
        grpc_port=_grpc,
        metrics_port=_metrics,
        log_verbose=0,
    )
    with Triton(config=where) as triton:
        triton.bind(
            model_name="default",
            infer_func=ranker(),
            inputs=[Tensor(name="features", dtype=np.float32, shape=(64,))],
            outputs=[
                Tensor(name="scores", dtype=np.float32, shape=(10,)),
                Tensor(name="positions", dtype=np.int64, shape=(10,)),
            ],
            config=ModelConfig(
                max_batch_size=32,
                batcher=DynamicBatcher(max_queue_delay_microseconds=5000),
            ),
        )
        triton.serve()
