"""The least a server can be: one Starlette handler that runs the session in a thread, one photo at
a time, without limits or batching.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tailorbird import images
from tailorbird.model import Classifier

classifier = Classifier(os.environ["MODEL"])


def classify(data: bytes) -> dict[str, object]:
    row = classifier.probabilities(images.load(data, classifier.info.resize)[None])[0]
    order = np.argsort(-row)[:3]
    return {"top": [{"label": classifier.classes[i], "probability": float(row[i])} for i in order]}


async def predict(request: Request) -> JSONResponse:
    form = await request.form()
    data = await form["photo"].read()
    return JSONResponse(await run_in_threadpool(classify, data))


if __name__ == "__main__":
    uvicorn.run(
        Starlette(routes=[Route("/v1/predict", predict, methods=["POST"])]),
        port=int(sys.argv[1]),
        log_level="warning",
        access_log=False,
    )
