"""Drive the upload page: choose photos, find their cards, substitute responses."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import FilePayload, Locator, Page, Route, expect

from support.data import encoded, picture


def photo(name: str = "box.jpg", label: str = "box", seed: int = 901) -> FilePayload:
    return {
        "name": name,
        "mimeType": "image/jpeg",
        "buffer": encoded(picture(label, seed), quality=92),
    }


def choose(page: Page, *files: FilePayload) -> None:
    page.set_input_files("#choose", list(files))


def card(page: Page, name: str) -> Locator:
    return page.locator(".card").filter(has=page.get_by_role("heading", name=name, exact=True))


def answered(page: Page, name: str = "box.jpg") -> Locator:
    """Return the card of a photo once it shows a result."""
    found = card(page, name)
    expect(found).to_have_attribute("data-state", re.compile("^(sure|unsure|unfamiliar)$"))
    return found


def change_response(page: Page, path: str, change: dict[str, Any]) -> None:
    """Replace some fields of the server's response, or of its first result."""

    def answer(route: Route) -> None:
        fetched = route.fetch()
        said = fetched.json()
        (said["results"][0] if "results" in said else said).update(change)
        route.fulfill(response=fetched, json=said)

    page.route(f"**{path}*", answer)


def classes(*labels: str) -> dict[str, Any]:
    """Return the fields of a model's description with other classes."""
    return {
        "classes": list(labels),
        "display": [{"label": label, "name": label} for label in labels],
    }


def prediction(box: float, disc: float, cross: float, *, unsure: bool) -> dict[str, Any]:
    """Return the fields of a prediction with the given probabilities."""
    top = [
        {"label": label, "probability": p}
        for label, p in (("box", box), ("disc", disc), ("cross", cross))
    ]
    return {"label": "box", "probability": box, "unsure": unsure, "top": top}


SURE = prediction(0.93, 0.05, 0.02, unsure=False)


UNSURE = prediction(0.41, 0.35, 0.24, unsure=True)


def heat_map_pixels(shown: Locator) -> str:
    """Return the pixels of a card's heat map as a data URL, or an empty string."""
    pixels: str = shown.locator("canvas").evaluate(
        "canvas => canvas.hidden ? '' : canvas.toDataURL()"
    )
    return pixels


CUT = encoded(picture("box", 1), quality=92)[:900]


CUT_FILE: FilePayload = {"name": "cut.jpg", "mimeType": "image/jpeg", "buffer": CUT}
