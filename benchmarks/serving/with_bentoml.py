"""Serve the model file with BentoML: its services, workers and optional adaptive batching."""

from __future__ import annotations

import os
from pathlib import Path

import bentoml
import numpy as np

from tailorbird import images
from tailorbird.model import Classifier

WORKERS = int(os.environ.get("WORKERS", "2"))
BATCH = int(os.environ.get("BATCH", "1"))


def answer(classifier: Classifier, row: np.ndarray) -> dict[str, object]:
    order = np.argsort(-row)[:3]
    return {"top": [{"label": classifier.classes[i], "probability": float(row[i])} for i in order]}


@bentoml.service(workers=WORKERS, traffic={"timeout": 30})
class Photos:
    def __init__(self) -> None:
        self.classifier = Classifier(
            os.environ["MODEL"], threads=int(os.environ.get("SESSION_THREADS", "1"))
        )

    if BATCH > 1:

        @bentoml.api(route="/v1/predict", batchable=True, max_batch_size=BATCH, max_latency_ms=1000)
        def predict(self, photo: list[Path]) -> list[dict[str, object]]:
            pixels = np.stack([images.load(path, self.classifier.info.resize) for path in photo])
            return [answer(self.classifier, row) for row in self.classifier.probabilities(pixels)]

    else:

        @bentoml.api(route="/v1/predict")
        def predict(self, photo: Path) -> dict[str, object]:
            pixels = images.load(photo, self.classifier.info.resize)
            return answer(self.classifier, self.classifier.probabilities(pixels[None])[0])
