"""A shop's back end: it alone talks to tailorbird's API, so that no token reaches a browser.

TAILORBIRD_URL=http://127.0.0.1:8000 TAILORBIRD_TOKEN=... uvicorn server:app --port 8080
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

URL = os.getenv("TAILORBIRD_URL", "http://127.0.0.1:8000")
HEADERS = {"Authorization": f"Bearer {os.getenv('TAILORBIRD_TOKEN', '')}"}
LISTINGS = []  # stands for the shop's own database
MOST = 20 * 2**20  # bytes of a photo, as the service's own limit


def call(path, body=None, kind="application/json"):
    request = Request(URL + path, body, HEADERS | {"Content-Type": kind})
    with urlopen(request, timeout=30) as answer:
        return json.load(answer)


async def categories(request):
    return JSONResponse((await run_in_threadpool(call, "/v1/model"))["display"])


async def suggest(request):  # a real shop checks here that the seller is signed in
    if int(request.headers.get("content-length", MOST + 1)) > MOST:
        return JSONResponse({"error": "the photo is too large"}, 413)
    photo, kind = await request.body(), "application/octet-stream"
    result = (await run_in_threadpool(call, "/v1/predict?top=3", photo, kind))["results"][0]
    return JSONResponse({name: result[name] for name in ("label", "unsure", "top", "receipt")})


async def sell(request):  # and here
    listing = await request.json()
    LISTINGS.append({"title": listing["title"], "category": listing["category"]})
    if listing["receipt"]:
        category = listing["category"]
        said = {"none_of_these": True} if category == "none" else {"answer": category}
        answer = json.dumps({"receipt": listing["receipt"]} | said)
        with suppress(URLError):  # the listing counts, whether or not the model learns from it
            await run_in_threadpool(call, "/v1/corrections", answer.encode())
    return JSONResponse({"number": len(LISTINGS)}, 201)


async def away(request, error):
    return JSONResponse({"error": "there is no suggestion"}, 502)


routes = [
    Route("/categories", categories),
    Route("/suggest", suggest, methods=["POST"]),
    Route("/listings", sell, methods=["POST"]),
    Mount("/", StaticFiles(directory=Path(__file__).with_name("form"), html=True)),
]
app = Starlette(routes=routes, exception_handlers={URLError: away, TimeoutError: away})
