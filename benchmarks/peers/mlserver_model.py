"""The model of the benchmark behind MLServer."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Ranker(MLModel):
    """Answers with the 10 best items of each row."""

    async def load(self) -> bool:
        """Load the model."""
        import torch

        torch.set_num_threads(1)
        self._torch = torch
        self._model = torch.jit.load(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Return the best scores of each row, and whose they are."""
        rows = self._torch.from_numpy(NumpyCodec.decode_input(payload.inputs[0]))
        with self._torch.inference_mode():
            best = self._torch.topk(self._model(rows.float()), 10)
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                NumpyCodec.encode_output("items", best.indices.numpy()),
                NumpyCodec.encode_output("scores", best.values.numpy()),
            ],
        )
