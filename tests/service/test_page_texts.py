"""The texts of the pages: complete in every language, and no text stands anywhere else."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from support.browser import (  # noqa: F401 (fixtures)
    OpenPage,
    browser,
    open_page,
    refuse,
    server,
)
from support.upload_page import CUT_FILE, SURE, UNSURE, answered, card, change_response, choose
from support.upload_page import photo as a_photo
from tailorbird.service.web.texts import LANGUAGES, texts

SERVICE = Path(__file__).resolve().parents[2] / "src" / "tailorbird" / "service"
ENGLISH = {"docs.js", "schema.js", "curl.js"}
"""The API page, for programmers: its subject, /openapi.json, is in English."""
TEMPLATES = [SERVICE / "page" / name for name in ("index.html", "dashboard.html")]
SHARED = set(re.findall(r"static/([\w]+\.js)", "".join(path.read_text() for path in TEMPLATES)))
"""Scripts of the service's pages. The local pages have others, which are in English as the command
line is."""
SCRIPTS = [
    *(path for path in (SERVICE / "page").glob("*.js") if path.name not in ENGLISH),
    *(path for path in (SERVICE / "web" / "assets").glob("*.js") if path.name in SHARED),
]


def leaves(value: Any, above: str = "") -> dict[str, str]:
    if isinstance(value, str):
        return {above: value}
    return {
        key: text
        for name, each in value.items()
        for key, text in leaves(each, f"{above}.{name}".lstrip(".")).items()
    }


def placeholders(text: str) -> list[str]:
    return sorted(re.findall(r"\{(\w+)\}", text))


ALL = {language: leaves(texts(language)) for language in LANGUAGES}


def test_every_language_has_the_same_texts_with_the_same_values_in_them() -> None:
    english = ALL["en"]
    for language, found in ALL.items():
        assert found.keys() == english.keys(), language
        for key, text in found.items():
            assert text.strip() == text and text, f"{language}: {key}"
            assert placeholders(text) == placeholders(english[key]), f"{language}: {key}"
    assert {path.stem for path in (SERVICE / "web" / "texts").glob("*.json")} == set(LANGUAGES)


def test_german_is_translated() -> None:
    same = {key for key, text in ALL["en"].items() if ALL["de"][key] == text}
    assert same == {"nav.api", "tally.all", "dashboard.times", "card.spoken"}


def test_every_text_is_used() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in [*SCRIPTS, *TEMPLATES])
    problems = "".join(path.read_text(encoding="utf-8") for path in SERVICE.rglob("*.py"))
    for key in ALL["en"]:
        subject, _, name = key.partition(".")
        if subject == "error":
            code = name.partition(".")[0]
            assert code in problems + sources, key
        elif subject == "count":
            assert f'counted("{name.partition(".")[0]}"' in sources, key
        else:
            assert re.search(rf"\b{name.removesuffix('_name')}\b", sources), key


def without_code(text: str) -> str:
    """Return JavaScript without comments and without what no person reads."""
    text = re.sub(r"/\*.*?\*/|(?<![:\"])//[^\n]*", "", text, flags=re.DOTALL)
    text = re.sub(r"class: (\"[^\"]*\"|`[^`]*`)", "", text)
    text = re.sub(
        r"from \"[^\"]*\"|matchMedia\([^)]*\)|new (Dom)?\w*(Error|Exception)\([^;]*;", "", text
    )
    return re.sub(r"\$\{[^{}]*\}", "", text)


NO_TEXT = {
    "Authorization", "Bearer", "Content-Type", "Retry-After", "POST", "Files", "ArrowDown",
    "ArrowUp", "PageDown", "PageUp", "Enter", "Escape", "M5", "M6", "M9", "M12",
}  # fmt: skip
"""Words of the platform: headers, keys, and the first of an icon's path."""


def test_scripts_hold_no_text() -> None:
    for path in SCRIPTS:
        for literal in re.findall(
            r"\"([^\"\n]*)\"|`([^`]*)`", without_code(path.read_text("utf-8"))
        ):
            text = "".join(literal).strip()
            words = re.match(r"[\w-]*", text)
            assert words is not None
            if words[0] in NO_TEXT:
                continue
            assert not re.search(r"[A-Za-z]{2,} [A-Za-z]{2,}|^[A-Z][a-z]+\b", text), (
                f"{path.name} says {text!r}; put it into the files of texts"
            )


class Words(HTMLParser):
    """Collects what a person would read in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._hidden = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag == "kbd"
        named = dict(attrs)
        names = ["alt", "title", "aria-label", "placeholder"]
        names += ["content"] if named.get("name") == "description" else []
        self.found += [value for name in names if (value := named.get(name))]

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.found.append(data)


def test_templates_hold_no_text() -> None:
    for path in TEMPLATES:
        text = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", path.read_text(encoding="utf-8"))
        for words in Words(text).found:
            assert not re.search(r"[A-Za-z]", words.replace("/openapi.json", "").replace(
                "/v1/corrections/stats", "")), f"{path.name} says {words!r}"  # fmt: skip
    assert Words('<p title="Hello">there').found == ["Hello", "there"]


MARKED = re.compile(r"⟦[^⟦⟧]*(?:⟦[^⟦⟧]*⟧[^⟦⟧]*)*⟧")


def mark(page: Page) -> None:
    """Put marks around every text that the scripts of a page get."""

    def wrapped(value: Any) -> Any:
        if isinstance(value, str):
            return f"⟦{value}⟧"
        return {name: wrapped(each) for name, each in value.items()}

    def answer(route: Route) -> None:
        site = json.loads(route.fetch().text().removeprefix("export const site = ").rstrip(";\n"))
        site["texts"] = wrapped(site["texts"])
        route.fulfill(
            content_type="text/javascript", body=f"export const site = {json.dumps(site)};"
        )

    page.route("**/static/site.js", answer)


DATA = {"box", "disc", "cross", "jpg", "cut", "shapes", "hat", "shirt", "November", "Nov"}
"""What is no text of the page: classes, names of files and of the model."""


def unmarked(page: Page, *areas: str) -> list[str]:
    """Return the words of parts of a page that came from no file of texts."""
    shown: list[str] = page.evaluate(
        """areas => areas.flatMap(area => [...document.querySelectorAll(area)]).flatMap(root => {
            const names = [...root.querySelectorAll("[aria-label],[title],[alt],[placeholder]")]
                .flatMap(node => ["aria-label", "title", "alt", "placeholder"]
                    .map(name => node.getAttribute(name) ?? ""));
            return [root.innerText, ...names];
        })""",
        list(areas),
    )
    joined = "\n".join(shown)
    while (rest := MARKED.sub(" ", joined)) != joined:
        joined = rest
    # A value that is an element divides its text, so that the marks stand in different nodes.
    joined = re.sub(r"⟦[^⟦⟧]*|[^⟦⟧\n]*⟧", " ", joined)
    return [word for word in re.findall(r"[A-Za-z]{2,}", joined) if word not in DATA]


def test_what_scripts_show_comes_from_the_texts(open_page: OpenPage) -> None:
    page = open_page(before=mark)
    change_response(page, "/v1/predict", SURE)
    choose(page, a_photo("box.jpg"), CUT_FILE)
    shown = answered(page, "box.jpg")
    shown.get_by_role("radio").nth(1).check()
    shown.locator(".corrections button").last.click()
    expect(shown.get_by_role("combobox")).to_be_visible()
    change_response(page, "/v1/predict", UNSURE)
    choose(page, a_photo("disc.jpg", "disc"))
    answered(page, "disc.jpg")
    refuse(page, "/v1/corrections", 507, "storage-full", "⟦from the server⟧")
    card(page, "disc.jpg").locator(".choice").first.click()
    expect(card(page, "disc.jpg").get_by_role("alert")).to_be_visible()
    areas = ["#cards", "#facts", "#notice", "#tally", "#classes-known", "#privacy", "#news"]
    server_message = {"truncated", "the", "file", "is"}  # of a photo, in English on this page
    left = [word for word in unmarked(page, *areas) if word not in server_message]
    assert not [word for word in left if word not in card(page, "cut.jpg").inner_text()], left


STATS = {
    "total": 12,
    "right": 9,
    "accuracy": 0.75,
    "interval": [0.4, 0.9],
    "per_class": [{"label": "hat", "total": 12, "right": 9}],
    "by_day": [{"day": "2026-11-01", "total": 12, "right": 9}],
    "mistaken": [{"predicted": "hat", "answer": "shirt", "count": 3}],
    "candidate": {
        "name": "shapes",
        "state": "failed",
        "message": None,
        "photos": 40,
        "agree": 30,
        "answered": 12,
        "both": 9,
        "only_served": 0,
        "only_candidate": 1,
        "neither": 2,
        "p_value": 1.0,
        "better": None,
    },
}


@pytest.mark.parametrize("total", [12, 0])
def test_what_the_dashboard_shows_comes_from_the_texts(open_page: OpenPage, total: int) -> None:
    def before(page: Page) -> None:
        mark(page)
        page.route(
            "**/v1/corrections/stats", lambda route: route.fulfill(json=STATS | {"total": total})
        )

    page = open_page("/dashboard", before=before)
    expect(page.locator("#figures section").first).to_be_visible()
    expect(page.locator("#facts")).to_contain_text("3")
    assert unmarked(page, "#figures", "#updated", "#facts", "#notice") == []
