"""The pictures of the pages in docs/images: draws a wardrobe, trains, serves it, and photographs
the pages with drawn photos.

python benchmarks/screenshots.py [--model shop.onnx] [--to docs/images]

Everything shown is what the server answered: the dashboard counts answers given just now about
drawings the model has not seen. The photos were chosen so that each state of a card is seen. Needs
the `test` dependency group (Playwright) and Chromium or Chrome. --model saves the training; it must
know the classes of the drawn wardrobe.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

from common import HERE, folder, tailorbird
from PIL import Image

from tailorbird.demo import CLASSES, draw

sys.path.insert(0, str(HERE.parent / "tests"))
from playwright.sync_api import Browser, FilePayload, Page

from support.browser import opened
from support.serving import Server, serving

LARGEST = 300_000  # bytes of a picture
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 1.5,
}
DESK = {"viewport": {"width": 1280, "height": 1000}, "device_scale_factor": 1}
# Seeds far above those of the drawn training photos.
SURE, MORE = ("hat", 9002), (("dress", 9003), ("shoes", 9001), ("t-shirt", 9000), ("outwear", 9003))


def jpeg(label: str, seed: int) -> bytes:
    buffer = io.BytesIO()
    size = (480, 600) if label in ("dress", "pants") else (640, 480)
    draw(label, seed, size=size).image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def file(label: str, seed: int) -> FilePayload:
    return {"name": f"{label}-{seed}.jpg", "mimeType": "image/jpeg", "buffer": jpeg(label, seed)}


def ask(server: Server, path: str, body: bytes, kind: str) -> Any:
    request = urllib.request.Request(
        server.address + path, data=body, headers={"Content-Type": kind}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def answer_some(server: Server, each: int) -> tuple[str, int] | None:
    """Send correct answers about `each` new drawings of every class.

    The first one that the model is unsure about and gets right.
    """
    unsure = None
    for label in CLASSES:
        for seed in range(20_000, 20_000 + each):
            result = ask(server, "/v1/predict", jpeg(label, seed), "image/jpeg")["results"][0]
            body = json.dumps({"receipt": result["receipt"], "answer": label}).encode()
            ask(server, "/v1/corrections", body, "application/json")
            if result["unsure"] and any(ranked["label"] == label for ranked in result["top"][:2]):
                unsure = unsure or (label, seed)
    return unsure


def shoot(page: Page, path: Path, *, full: bool = False) -> None:
    """Return a PNG, with a palette if it would be too large."""
    page.wait_for_timeout(400)
    image = Image.open(io.BytesIO(page.screenshot(full_page=full))).convert("RGB")
    for colours in (None, 256, 192, 128, 96, 64):
        small = (
            image if colours is None else image.quantize(palette=image.quantize(colours))
        )  # dithered
        small.save(path, optimize=True)
        if path.stat().st_size <= LARGEST:
            break
    else:
        sys.exit(f"{path} is {path.stat().st_size:,} bytes; at most {LARGEST:,} are wanted")
    print(f"{path}: {image.width} x {image.height}, {path.stat().st_size / 1000:.0f} kB")


def with_photos(browser: Browser, server: Server, *photos: tuple[str, int], **options: Any) -> Page:
    page = browser.new_context(**options).new_page()
    page.goto(server.address)
    page.set_input_files("#choose", [file(*photo) for photo in photos])
    answered = ", ".join(f"[data-state={state}]" for state in ("sure", "unsure", "unfamiliar"))
    page.locator(answered).nth(len(photos) - 1).wait_for()
    return page


def switch_on(page: Page) -> None:
    """Show the first card's first heat map, then scroll back."""
    page.locator(".segments label").nth(1).click()
    page.locator("#results").evaluate("results => results.scrollIntoView()")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--model", type=Path)
    options.add_argument("--to", type=Path, default=HERE.parent / "docs" / "images")
    given = options.parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    with folder() as place:
        model = given.model
        if model is None:
            tailorbird("demo", place / "demo", "-q", cache=place / "cache")
            model = next((place / "demo").glob("*.onnx"))
        with serving(model, place) as server, opened() as browser:
            unsure = answer_some(server, 12) or ("shirt", 9001)

            page = with_photos(browser, server, SURE, **PHONE)
            switch_on(page)
            shoot(page, given.to / "page-phone.png")

            page = with_photos(
                browser,
                server,
                *MORE,
                unsure,
                SURE,
                **{**DESK, "viewport": {"width": 1280, "height": 1180}},
            )
            page.locator(".card").nth(0).locator(".segments label").nth(1).click()
            page.locator(".card").nth(2).get_by_role("button", name="Right", exact=True).click()
            page.mouse.move(0, 0)
            shoot(page, given.to / "page-desktop.png")

            page = with_photos(browser, server, SURE, unsure, **PHONE, color_scheme="dark")
            switch_on(page)
            shoot(page, given.to / "page-dark.png")

            page = browser.new_context(**DESK).new_page()
            page.goto(f"{server.address}/dashboard")
            page.locator(".chart g").first.wait_for()
            shoot(page, given.to / "dashboard.png", full=True)

            page = browser.new_context(**DESK).new_page()
            page.goto(f"{server.address}/docs")
            page.locator(".operation").first.wait_for()
            shoot(page, given.to / "api.png")


if __name__ == "__main__":
    main()
