"""The files of the pages: no inline code, relative addresses only, every named file exists."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tailorbird.service.web.pages import Pages

SERVICE = Path(__file__).resolve().parents[2] / "src" / "tailorbird" / "service"
SHARED = SERVICE / "web" / "assets"
FOLDERS = (SERVICE / "page", SERVICE / "review" / "page", SERVICE / "labelling" / "page")
SERVED_AT = re.compile(r"(\./|dashboard|docs|openapi\.json|v1/corrections/stats)")


def files(suffix: str) -> list[tuple[Path, Path]]:
    """The files of a kind, each with the page folder that it is served with."""
    own = [(path, folder) for folder in FOLDERS for path in folder.glob(f"*{suffix}")]
    return own + [(path, FOLDERS[0]) for path in SHARED.glob(f"*{suffix}")]


MADE = Path("site.js")
"""Made by the server for each site, from no file."""


def found(name: str, folder: Path) -> Path | None:
    """The file that /static/NAME answers."""
    if name == MADE.name:
        return MADE
    return next((p / name for p in (folder, SHARED) if (p / name).is_file()), None)


def test_no_page_has_a_file_of_the_name_of_a_shared_one() -> None:
    shared = {path.name for path in SHARED.iterdir()}
    for folder in FOLDERS:
        assert not shared & {path.name for path in folder.iterdir()}, folder


def test_markup_has_no_inline_code_and_no_absolute_address() -> None:
    """An absolute address would leave the prefix under which a proxy shows the service."""
    for path, folder in files(".html"):
        text = path.read_text(encoding="utf-8")
        inline = r"<style|<script(?![^>]*\ssrc=)|\sstyle=|\son\w+=|javascript:"
        assert not re.search(inline, text), path.name
        for address in re.findall(r'(?:src|href)="([^"]*)"', text):
            if address == "{{ icon }}":
                continue
            if address.startswith("static/"):
                assert found(address.removeprefix("static/"), folder), f"{path.name}: {address}"
            else:
                assert address.startswith("#") or SERVED_AT.fullmatch(address), (
                    f"{path.name}: {address}"
                )


def test_scripts_are_short_relative_and_load_only_each_other() -> None:
    for path, folder in files(".js"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 310, f"{path.name} is long: two subjects?"
        assert max(map(len, text.splitlines())) <= 100, f"{path.name} has long lines"
        for name in re.findall(r'(?:from|import) "([^"]+)"', text):
            assert name.startswith("./") and found(name[2:], folder), f"{path.name}: {name}"
        for forbidden in ("innerHTML", "insertAdjacentHTML", "document.write"):
            assert forbidden not in text, path.name
        addresses = re.findall(r"https?://[^\s\"'`)]+", text)
        assert addresses in ([], ["http://www.w3.org/2000/svg"]), path.name
        absolute = re.findall(r"""["'`]/(?:static|v1|v2|api|dashboard|docs|openapi)[^"'`]*""", text)
        assert not absolute, f"{path.name}: {absolute}"


def imported(name: str, folder: Path, seen: frozenset[str] = frozenset()) -> frozenset[str]:
    """The scripts that a script loads, and those that they load."""
    path = found(name, folder)
    assert path is not None
    if path == MADE:
        return seen
    for other in re.findall(r'from "\./([^"]+)"', path.read_text(encoding="utf-8")):
        if other not in seen:
            seen = imported(other, folder, seen | {other})
    return seen


@pytest.mark.parametrize(
    ("page", "script"), [("index", "upload"), ("dashboard", "dashboard"), ("docs", "docs")]
)
def test_pages_preload_all_their_scripts(page: str, script: str) -> None:
    text = (FOLDERS[0] / f"{page}.html").read_text(encoding="utf-8")
    preloaded = re.findall(r'rel="modulepreload" href="static/([^"]+)"', text)
    assert set(preloaded) == imported(f"{script}.js", FOLDERS[0])


def test_the_web_app_manifest_names_existing_files() -> None:
    manifest = json.loads(Pages("tailorbird.service").content("site.webmanifest"))
    assert all(found(icon["src"], FOLDERS[0]) for icon in manifest["icons"])
