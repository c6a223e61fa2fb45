"""The model of the benchmark behind LitServe, with its batching on: ``litserve_app MODEL PORT``."""

from __future__ import annotations

import sys
from typing import Any

import litserve


class Ranker(litserve.LitAPI):
    """Answers with the 10 best items of each row."""

    def setup(self, device: str) -> None:
        """Load the model."""
        import torch

        torch.set_num_threads(1)
        self._torch = torch
        self._model = torch.jit.load(sys.argv[1])

    def decode_request(self, request) -> Any:  # type: ignore[no-untyped-def]  # noqa: ANN001
        """Return the row of a request."""
        return self._torch.tensor(request["features"])

    def batch(self, inputs: list[Any]) -> Any:
        """Return rows as one tensor."""
        return self._torch.stack(inputs)

    def predict(self, rows: Any) -> Any:
        """Return the best scores of each row, and whose they are."""
        with self._torch.inference_mode():
            best = self._torch.topk(self._model(rows), 10)
        return best.values.tolist(), best.indices.tolist()

    def unbatch(self, output: Any) -> Any:
        """Return the answers one by one."""
        return list(zip(*output, strict=True))

    def encode_response(self, output: Any) -> Any:
        """Return the JSON value of an answer."""
        scores, items = output
        return {"recommendations": [f"item-{n}" for n in items], "scores": scores}


if __name__ == "__main__":
    server = litserve.LitServer(
        Ranker(max_batch_size=32, batch_timeout=0.005),
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[2]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
