"""The pictures of the review in docs/images: draws a wardrobe, puts some drawings into wrong
folders, and reviews it.

python benchmarks/review_screenshots.py [--to docs/images]

What the pages say is what was found. Needs the `test` dependency group (Playwright) and Chromium or
Chrome.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from common import HERE, folder
from screenshots import DESK, PHONE, jpeg, shoot

from tailorbird.demo import CLASSES

sys.path.insert(0, str(HERE.parent / "tests"))
from support.browser import opened
from support.reviewing import reviewing

PER_CLASS = 40
WRONG = (
    ("dress", "skirt", 4),
    ("hat", "shoes", 7),
    ("shorts", "pants", 9),
    ("shirt", "t-shirt", 6),
    ("shoes", "hat", 11),
)
"""A drawing's class, the class it is put into, and its number."""


def draw_wrong(root: Path) -> Path:
    """Draw train/ and test/ with WRONG labels, and a copy of a test drawing in train."""
    for label in CLASSES:
        for number in range(PER_CLASS):
            part = root / ("train" if number % 5 else "test") / label
            part.mkdir(parents=True, exist_ok=True)
            (part / f"{label}-{number:02}.jpg").write_bytes(jpeg(label, 40_000 + number))
    for true, given, number in WRONG:
        shutil.move(
            root / "train" / true / f"{true}-{number:02}.jpg",
            root / "train" / given / f"{given}-9{number:02}.jpg",
        )
    shutil.copy(
        root / "test" / "dress" / "dress-10.jpg", root / "train" / "dress" / "dress-210.jpg"
    )
    return root


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--to", type=Path, default=HERE.parent / "docs" / "images")
    given = options.parse_args()
    with folder() as place:
        os.environ["TAILORBIRD_CACHE"] = str(place / "cache")
        os.chdir(place)
        with (
            reviewing(draw_wrong(Path("wardrobe")), place / "log.txt") as running,
            opened() as browser,
        ):
            print(running.log.read_text())
            address = running.page.address + running.page.path
            desk = {**DESK, "viewport": {"width": 1280, "height": 860}}

            page = browser.new_context(**desk).new_page()
            page.goto(address)
            page.locator(".suspect img").wait_for()
            page.keyboard.press("Enter")
            page.wait_for_load_state("networkidle")
            page.mouse.move(0, 0)
            shoot(page, given.to / "review.png")

            page = browser.new_context(**desk, color_scheme="dark").new_page()
            page.goto(address)
            page.locator(".suspect img").wait_for()
            page.locator("#kind").select_option("leak")
            page.locator(".group img").first.wait_for()
            page.wait_for_load_state("networkidle")
            shoot(page, given.to / "review-dark.png")

            page = browser.new_context(**PHONE).new_page()
            page.goto(address)
            page.locator(".suspect img").wait_for()
            page.wait_for_load_state("networkidle")
            shoot(page, given.to / "review-phone.png")


if __name__ == "__main__":
    main()
