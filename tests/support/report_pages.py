"""Parse a page of a report, check that it is self-contained, and look up its numbers."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tailorbird.report import Content
from tailorbird.training import TrainResult

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A parser that checks that a page is well-formed and keeps its text, tags and values."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.values: dict[str, float] = {}
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "data":
            said = dict(attrs)
            self.values[said["data-name"] or ""] = float(said["value"] or "nan")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)  # self-closing tags of SVG
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def of(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]

    @property
    def photos(self) -> list[bytes]:
        found = [value for tag, name, value in self.attributes if tag == "img" and name == "src"]
        assert all(uri.startswith("data:image/jpeg;base64,") for uri in found)
        return [base64.b64decode(uri.partition(",")[2]) for uri in found]


def self_contained_page(path: Path) -> Page:
    """Parse a page and check that it loads nothing, runs no script and has no broken reference."""
    page = Page(path.read_text(encoding="utf-8"))
    assert page.html.startswith("<!doctype html>")
    (policy,) = [value for value in page.of("content") if "default-src" in value]
    assert policy.startswith("default-src 'none'; img-src data:;") and "script" not in policy
    assert not page.tags & {
        "script",
        "iframe",
        "object",
        "embed",
        "link",
        "form",
        "base",
        "image",
        "foreignobject",
    }
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "action"):
            assert value.startswith("#") or (tag == "img" and value.startswith("data:image/")), (
                tag,
                name,
                value,
            )
        if tag == "img":
            assert name in ("src", "alt", "title")
    assert not re.search(r"url\((?!#)|@import", page.html)
    ids = page.of("id")
    assert len(ids) == len(set(ids)), "ids are unique"
    wanted = {value[1:] for value in page.of("href") + page.of("xlink:href")} | set(
        re.findall(r"url\(#([^)]+)\)", page.html)
    )
    assert wanted <= set(ids)
    defined = set(re.findall(r"(--[a-z-]+):", page.html))
    assert set(re.findall(r"var\((--[a-z-]+)\)", page.html)) <= defined
    return page


def lookup(found: Any, path: str) -> Any:
    """Return a value from nested dictionaries and lists; keys may contain dots."""
    if not path:
        return found
    if isinstance(found, list):
        head, _, rest = path.partition(".")
        return lookup(found[int(head)], rest)
    for key in sorted(found, key=len, reverse=True):
        if path == key or path.startswith(f"{key}."):
            return lookup(found[key], path[len(key) + 1 :])
    raise KeyError(path)


def content_of(result: TrainResult, **changes: Any) -> Content:
    from tailorbird.training.result import content_of as of

    return replace(of(result), **changes)
