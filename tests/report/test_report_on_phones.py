"""The report in a real browser: on a phone nothing is cut off and no word is divided."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from support.browser import browser as browser
from support.browser import violations
from tailorbird.training import TrainResult


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_every_column_and_whole_words(
    browser: Browser, result: TrainResult, tmp_path: Path, scheme: str
) -> None:
    assert result.report is not None
    html = result.report.read_text(encoding="utf-8").replace("disc", "cardboard")
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    page = browser.new_page(
        viewport={"width": 390, "height": 844}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page.goto((tmp_path / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    cut = page.evaluate(
        """[...document.querySelectorAll(".scroll")]
            .filter(box => box.scrollWidth > box.clientWidth)
            .map(box => box.querySelector("table")?.className)"""
    )
    assert cut == []
    lines = page.evaluate(
        """[...document.querySelectorAll("table.classes tbody th")]
            .map(cell => {
                const range = document.createRange();
                const text = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT).nextNode();
                range.selectNodeContents(text);
                return range.getClientRects().length;
            })"""
    )
    assert lines and set(lines) == {1}
    assert violations(page) == []
    page.close()


def test_a_wide_screen_names_what_a_class_is_mistaken_for_in_a_column(
    browser: Browser, result: TrainResult
) -> None:
    assert result.report is not None
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(result.report.as_uri())
    assert page.get_by_role("columnheader", name="most often mistaken for").is_visible()
    assert not page.locator(".narrow:visible").count()
    page.close()
