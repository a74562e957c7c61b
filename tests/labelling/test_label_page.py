"""The page of a labelling in a browser: a whole session by keyboard alone, then each part of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from playwright.sync_api import Page as Tab

from support.browser import Watch, browser, refuse, violations  # noqa: F401  (fixture)
from support.labelling import (  # noqa: F401  (fixtures)
    SHAPES,
    drawn_cache,
    label_page,
    label_until,
    labelling,
    roll,
    true,
)
from support.reviewing import Page, wait_for
from tailorbird.labelling import Labelling

OpenLabelling = Callable[..., Tab]


@pytest.fixture
def tab(browser: Browser) -> Iterator[OpenLabelling]:
    """Opens a labelling's page in a fresh window; afterwards none may have written an error or
    talked to anybody else.
    """
    windows: list[tuple[Any, Watch]] = []

    def open_one(page: Page, **options: Any) -> Tab:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        context.set_default_timeout(15_000)
        windows.append((context, Watch(context, page.address)))
        opened: Tab = context.new_page()
        opened.goto(page.address + page.path)
        expect(opened.locator("#screen .one, #screen .sheet, #screen .done").first).to_be_visible()
        return opened

    yield open_one
    for context, watch in windows:
        context.close()
        assert not watch.errors, "\n".join(watch.errors)
        assert not watch.elsewhere, "\n".join(watch.elsewhere)


def saved(opened: Labelling) -> dict[str, str]:
    return {
        name: answer.label or answer.kind
        for name, answer in list(opened.history.answers.by_name.items())
    }


def shown(tab: Tab) -> str:
    """The name of the photo that is asked about."""
    return tab.locator(".one .file").inner_text()


def press_class(tab: Tab, label: str) -> None:
    names = tab.locator("#classes .name").all_inner_texts()
    tab.keyboard.press(str(names.index(label) + 1))


def answer_screens(tab: Tab, opened: Labelling) -> None:
    """Answer by keys what is asked one by one, until a sheet is shown."""
    while not tab.locator(".sheet").count():
        name = shown(tab)
        press_class(tab, true(name))
        wait_for(lambda name=name: name in saved(opened))
        expect(tab.locator(".one .file", has_text=name)).to_have_count(0)


def test_a_whole_session_by_keyboard(tab: OpenLabelling, roll: Path) -> None:
    """Classes typed, photos answered, a sheet corrected and confirmed, undone, trained."""
    with labelling(roll, classes=()) as opened, label_page(opened) as page:
        view = tab(page)
        expect(view.locator("#new-class")).to_be_focused()
        while len(opened.history.answers.classes) < len(SHAPES):
            name = shown(view)
            if true(name) in opened.history.answers.classes:
                press_class(view, true(name))
            else:
                if len(saved(opened)):
                    view.keyboard.press("c")
                view.keyboard.type(true(name))
                view.keyboard.press("Enter")
            wait_for(lambda name=name: saved(opened).get(name) == true(name))
            expect(view.locator(".one .file", has_text=name)).to_have_count(0)
        answer_screens(view, opened)
        before = saved(opened)
        tiles = view.locator(".tile")
        names = [
            re.match(r"Photo (.+): (\w+)", text)
            for text in tiles.evaluate_all("all => all.map(t => t.getAttribute('aria-label'))")
        ]
        count = len(names)
        view.keyboard.press("ArrowRight")  # to the second; the first is selected at once
        expect(tiles.nth(1)).to_be_focused()
        view.keyboard.press("ArrowLeft")
        for index, found in enumerate(names):
            assert found is not None
            if true(found[1]) != found[2]:
                expect(tiles.nth(index)).to_be_focused()
                press_class(view, true(found[1]))
                expect(tiles.nth(index)).to_have_attribute("data-changed", "")
            if index + 1 < count:
                view.keyboard.press("ArrowRight")
        view.locator("h2.question").focus()
        view.keyboard.press("Enter")
        wait_for(lambda: len(saved(opened)) == len(before) + count)
        assert all(label == true(name) for name, label in saved(opened).items())
        expect(view.locator("#saved")).to_contain_text(f"{len(before) + count} labels")
        expect(view.locator("#undo")).to_be_enabled()
        view.keyboard.press("z")
        wait_for(lambda: saved(opened) == before)
        expect(view.locator("#saved")).to_contain_text(f"{len(before)} labels")
        view.locator("#train").focus()
        with view.context.expect_page() as popup:
            view.keyboard.press("Enter")
        report = popup.value
        expect(report.locator("h1", has_text="Training").or_(report.locator("h1"))).to_be_visible()
        expect(report).to_have_title(re.compile(r"roll\.onnx|Report|report"), timeout=120_000)
        expect(view.locator("#training")).to_contain_text("Open the report", timeout=20_000)
    assert (roll.parent / "roll.onnx").exists()


def test_special_answers_by_key_and_the_list_of_keys(
    tab: OpenLabelling,
    roll: Path,
) -> None:
    with labelling(roll) as opened, label_page(opened) as page:
        view = tab(page)
        for key, kind in (("n", "none"), ("u", "unusable"), ("s", "skip")):
            name = shown(view)
            view.keyboard.press(key)
            wait_for(lambda name=name, kind=kind: saved(opened).get(name) == kind)
            expect(view.locator(".one .file", has_text=name)).to_have_count(0)
        name = shown(view)
        view.keyboard.press("l")
        view.keyboard.type("stripe")
        view.keyboard.press("Enter")
        wait_for(lambda: saved(opened).get(name) == "stripe")
        view.keyboard.press("z")
        wait_for(lambda: name not in saved(opened))
        expect(view.locator(".one .file")).to_have_text(name)  # asked again at once
        view.keyboard.press("?")
        expect(view.get_by_role("dialog", name="Keys")).to_contain_text("Confirm the whole sheet")
        view.keyboard.press("Escape")
        view.keyboard.press("f")
        expect(view.get_by_role("dialog", name=f"Photo {name}")).to_be_visible()


def test_a_class_is_renamed_merged_and_shown_alone(
    tab: OpenLabelling,
    roll: Path,
) -> None:
    with labelling(roll) as opened:
        label_until(opened, 28)
        with label_page(opened) as page:
            view = tab(page)
            view.get_by_role("button", name="Change the class disc").click()
            dialog = view.get_by_role("dialog", name="Class disc")
            dialog.get_by_role("button", name="Show photos that look like disc").click()
            expect(view.locator(".group")).to_have_count(1)
            expect(view.locator("h2.question")).to_contain_text("disc?")
            view.get_by_role("button", name="Show other classes than disc too").click()
            for new, classes in (
                ("Scheibe", ["Scheibe", "box", "cross"]),
                ("box", ["box", "cross"]),
            ):
                old = opened.history.answers.classes[0]
                view.get_by_role("button", name=f"Change the class {old}").click()
                view.keyboard.type(new)
                view.keyboard.press("Enter")
                expect(view.locator("#classes .name")).to_have_text(classes)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_accessible_on_wide_and_narrow_screens(
    tab: OpenLabelling,
    roll: Path,
    scheme: str,
    width: int,
) -> None:
    with labelling(roll) as opened, label_page(opened) as page:
        view = tab(page, color_scheme=scheme, viewport={"width": width, "height": 860})
        assert not violations(view)
        expect(view.locator(".one img")).to_have_attribute("alt", re.compile("Photo .+"))
        answer_screens(view, opened)
        assert not violations(view)
        wide = view.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, "nothing sticks out at the side"
        if width == 390:
            tile = view.locator(".tile").first
            tile.click()
            expect(view.get_by_role("dialog", name="Classes")).to_be_visible()
            view.keyboard.press("Escape")
            expect(view.locator("#confirm")).to_be_in_viewport()
            view.locator("#confirm").click()
            wait_for(lambda: opened.history.answers.number > 0)


def test_two_windows_do_not_overwrite_each_other(
    tab: OpenLabelling,
    roll: Path,
) -> None:
    with labelling(roll) as opened, label_page(opened) as page:
        one, two = tab(page), tab(page)
        first = shown(one)
        assert first != shown(two), "windows are asked about different photos"
        press_class(one, true(first))
        wait_for(lambda: first in saved(opened))
        two.keyboard.press("z")  # its state is older than the answer of the other window
        expect(two.locator("#notice")).to_contain_text("nother window has answered since")
        assert saved(opened)[first] == true(first)
        second = shown(two)
        press_class(two, true(second))
        wait_for(lambda: second in saved(opened))


def test_a_failed_save_is_said_and_the_photo_stays(
    tab: OpenLabelling,
    roll: Path,
) -> None:
    with labelling(roll) as opened, label_page(opened) as page:
        view = tab(page)
        name = shown(view)
        refuse(view, "/api/answers", 507, "storage-full", "the disk is full: free some space")
        press_class(view, true(name))
        expect(view.locator("#notice")).to_contain_text("The disk is full")
        assert shown(view) == name and not saved(opened)
        press_class(view, true(name))
        wait_for(lambda: name in saved(opened))
        expect(view.locator("#notice")).to_be_empty()


def test_names_are_text_not_markup(tab: OpenLabelling, roll: Path) -> None:
    """A file and a class whose names are markup."""
    for photo in list(roll.iterdir())[12:]:
        photo.unlink()
    for photo in list(roll.iterdir()):
        photo.rename(roll / f"<img src=x onerror=alert(1)> {photo.name}")
    with labelling(roll, classes=("<b>bold</b>",)) as opened, label_page(opened) as page:
        view = tab(page)
        assert "<img src=x" in shown(view)
        expect(view.locator("#classes .name")).to_have_text("<b>bold</b>")
