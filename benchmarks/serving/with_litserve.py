"""The same model file behind LitServe: its batching, its workers, its way of taking a file (its
documentation's image example).
"""

# No `from __future__ import annotations` here: LitServe looks at the annotation of decode_request
# itself.
import os
import sys

import litserve
import numpy as np
from fastapi import Request

from tailorbird import images
from tailorbird.model import Classifier


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.classifier = Classifier(
            os.environ["MODEL"], threads=int(os.environ.get("SESSION_THREADS", "1"))
        )

    def decode_request(self, request: Request) -> np.ndarray:
        return images.load(request["photo"].file.read(), self.classifier.info.resize)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.classifier.probabilities(x if x.ndim == 4 else x[None])

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict[str, object]:
        row = output.ravel()
        order = np.argsort(-row)[:3]
        return {
            "top": [
                {"label": self.classifier.classes[i], "probability": float(row[i])} for i in order
            ]
        }


if __name__ == "__main__":
    batch = int(os.environ.get("BATCH", "1"))
    api = Api(
        max_batch_size=batch,
        batch_timeout=float(os.environ.get("BATCH_TIMEOUT", "0.005")),
        api_path="/v1/predict",
    )
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=int(os.environ.get("WORKERS", "2"))
    )
    server.run(
        port=int(sys.argv[1]), log_level="warning", generate_client_file=False, host="127.0.0.1"
    )
