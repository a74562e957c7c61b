"""The page of a review in a browser: a whole review by keyboard alone, then each part of it."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, expect
from playwright.sync_api import Page as Tab

from support.browser import Watch, browser, violations  # noqa: F401  (fixture)
from support.data import picture
from support.reviewing import (
    CONFLICT,
    COPIES,
    FLIPPED,
    Page,
    decisions,
    draw_wrong,
    reviewing,
    shown,
)
from tailorbird import scan
from tailorbird.dataset import Dataset
from tailorbird.dataset.table import Row
from tailorbird.errors import StorageFull
from tailorbird.label_errors import Suspect
from tailorbird.review import Manifest, Review, open_review
from tailorbird.review import manifest as manifests
from tailorbird.review.items import make_items
from tailorbird.training import train

OpenReview = Callable[..., Tab]


@pytest.fixture
def tab(browser: Browser) -> Iterator[OpenReview]:
    """Opens a review's page in a fresh window; afterwards none may have written an error or talked
    to anybody else.
    """
    windows: list[tuple[Any, Watch]] = []

    def open_one(page: Page, **options: Any) -> Tab:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        context.set_default_timeout(30_000)
        windows.append((context, Watch(context, page.address)))
        opened: Tab = context.new_page()
        opened.goto(page.address + page.path)
        expect(opened.locator("#item h2")).to_be_visible()
        return opened

    yield open_one
    for context, watch in windows:
        context.close()
        assert not watch.errors, "\n".join(watch.errors)
        assert not watch.elsewhere, "\n".join(watch.elsewhere)


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILORBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        return scan(draw_wrong(tmp_path_factory.mktemp("data") / "photos"))


def begun(dataset: Dataset, folder: Path, extra: tuple[str, ...] = ()) -> Review:
    """A review of a scanned dataset in which FLIPPED is known to be suspect. extra: classes beside
    those of the photos.
    """
    of = {sample.name: sample for sample in dataset.samples}
    reported = [
        Suspect(of[name], of[name].label, true, 0.01, 0.94, 0.99, rank)
        for rank, (name, true) in enumerate(FLIPPED.items(), start=1)
    ]
    judged = {suspect.sample: suspect for suspect in reported}
    for name, probability in zip(CONFLICT, (0.9, 0.1), strict=True):
        judged[of[name]] = Suspect(
            of[name], of[name].label, "box", probability, 0.05, 1 - probability, 9
        )
    manifest = Manifest(
        folder / "photos.reviewed.csv",
        [Row(s.name, s.label, s.split) for s in dataset.samples],
        seen=None,
    )
    manifest.write()
    review = Review(dataset.root, dataset, make_items(dataset, reported, judged), judged, manifest)
    review.classes = tuple(sorted({*review.classes, *extra}))
    review._known = frozenset(review.classes)
    return review


@pytest.fixture
def review(wrong: Dataset, tmp_path: Path) -> Review:
    return begun(wrong, tmp_path)


@pytest.fixture
def page(review: Review) -> Iterator[Page]:
    with shown(review) as served:
        yield served


def question(tab: Tab) -> Locator:
    return tab.locator("#item h2")


def card(tab: Tab, number: int) -> Locator:
    return tab.locator(".photo").nth(number - 1)


def saved(tab: Tab, words: str) -> None:
    """Wait until everything is saved, and so many decisions are."""
    expect(tab.locator("#saved")).to_contain_text(words)


def test_a_whole_review_by_keyboard_alone(tmp_path: Path, tab: OpenReview) -> None:
    photos = draw_wrong(tmp_path / "photos")
    with reviewing(photos, tmp_path / "log.txt") as running:
        page = tab(running.page)
        expect(page).to_have_url(running.page.address + "/")
        expect(page.locator("#far")).to_have_text(re.compile(r"0 of \d+ reviewed"))
        press = page.keyboard.press
        ways = iter(["Enter", "r", "digit", "list", "mistake", "Enter"])
        others = []
        for _ in range(20):
            title = question(page).inner_text()
            expect(question(page)).to_be_focused()
            if title == "All done":
                break
            if page.locator(".suspect").count():
                name = page.locator(".panel .file").inner_text()
                if name not in FLIPPED:
                    others.append(name)
                    press("x" if name == CONFLICT[1] else "k")
                else:
                    relabel(page, FLIPPED[name], next(ways))
            elif "labelled" in title:
                names = page.locator(".photo .file").all_inner_texts()
                press(str(names.index(CONFLICT[1]) + 1))
                press("x")
                expect(card(page, names.index(CONFLICT[1]) + 1)).to_have_attribute(
                    "data-decision", "exclude"
                )
                press("k")
            else:
                press("Enter")
            expect(question(page)).not_to_have_text(title)
        assert next(ways, None) is None and set(others) <= {CONFLICT[1]}
        expect(page.locator(".command code")).to_have_text(
            re.compile("^tailorbird train .*photos.reviewed.csv$")
        )
        saved(page, "2 kept, 6 relabelled, 2 excluded of 74 photos")
        out = running.finish(signal.SIGINT)
        assert running.process.returncode == 0 and "Traceback" not in running.log.read_text()
        assert "Kept 2, relabelled 6, excluded 2 of 74 photos; nothing left to look at" in out
        assert f"Train on it: tailorbird train {tmp_path / 'photos.reviewed.csv'}" in out
    manifest = tmp_path / "photos.reviewed.csv"
    assert decisions(manifest) == {
        **{
            f"photos/{name}": ("relabel", true, name.partition("/")[0])
            for name, true in FLIPPED.items()
        },
        f"photos/{CONFLICT[0]}": ("keep", "cross", ""),
        f"photos/{CONFLICT[1]}": ("exclude", "disc", ""),
        f"photos/{COPIES[0]}": ("keep", "box", ""),
        f"photos/{COPIES[1]}": ("exclude", "box", ""),
    }
    quick = {"inner": (), "dropout": 0.0, "learning_rate": 0.01, "l2": 0.0, "epochs": 3}
    result = train(manifest, tmp_path / "m.onnx", fixed=quick, backbone="pocket")
    assert result.dataset.counts == {"box": 24, "cross": 24, "disc": 24}, (
        "every photo under what it shows, each once"
    )


def relabel(tab: Tab, true: str, way: str) -> None:
    """Give the photo on view its true label, in one of the ways there are; or a wrong one first,
    and take that back.
    """
    press = tab.keyboard.press
    if way == "digit":
        press(str(("box", "cross", "disc").index(true) + 1))
    elif way == "list":
        press("l")
        expect(tab.get_by_role("combobox", name="What is it really?")).to_be_focused()
        tab.keyboard.type(true[:3])
        press("Enter")
    elif way == "mistake":
        title = question(tab).inner_text()
        name = tab.locator(".panel .file").inner_text()
        press("x")
        expect(tab.locator(".panel .file")).not_to_have_text(name)
        press("z")
        expect(tab.locator(".panel .file")).to_have_text(name)
        expect(question(tab)).to_have_text(title)
        press("Enter")
    else:
        press(way)


def test_what_is_said_about_a_suspect(page: Page, tab: OpenReview) -> None:
    opened = tab(page)
    expect(question(opened)).to_have_text("Labelled box. Is it disc?")
    expect(opened.locator(".odds li")).to_have_text(
        [
            re.compile("looks like disc.*very likely, 94%"),
            re.compile("labelled box.*very unlikely, 1%"),
        ]
    )
    image = opened.locator(".stage img")
    expect(image).to_have_js_property("complete", True)
    assert image.evaluate("image => image.naturalWidth") == 96
    opened.get_by_role("button", name="Keep box").click()
    expect(opened.locator("#news")).to_have_text("Kept as box. Next: Labelled cross. Is it disc?")
    opened.keyboard.press("ArrowLeft")
    expect(opened.locator(".verdict")).to_have_text("Kept as box")
    expect(opened.get_by_role("button", name="Keep box")).to_have_attribute("aria-pressed", "true")
    opened.keyboard.press("f")
    expect(opened.locator("dialog.full img")).to_be_visible()
    opened.keyboard.press("Escape")
    expect(opened.locator("dialog")).to_have_count(0)
    opened.reload()
    expect(opened.locator("#far")).to_have_text("1 of 8 reviewed")
    expect(question(opened)).to_have_text("Labelled cross. Is it disc?")


def test_the_next_photos_are_fetched_in_advance(page: Page, tab: OpenReview) -> None:
    opened = tab(page)
    opened.wait_for_load_state("networkidle")
    asked: list[str] = []
    opened.on(
        "request",
        lambda request: asked.append(request.url) if "/api/items/" in request.url else None,
    )
    for _ in range(7):
        opened.keyboard.press("ArrowRight")
    expect(question(opened)).to_have_text("2 identical photos of box")
    assert asked == [], "all eight were at hand"


def test_filters_and_the_end_of_one(page: Page, tab: OpenReview, review: Review) -> None:
    opened = tab(page)
    expect(opened.locator("#kind option")).to_have_text(
        ["All findings (8)", "Suspect labels (6)", "Conflicting labels (1)", "Duplicates (1)"]
    )
    opened.get_by_label("Class").select_option("box (5)")
    expect(opened.locator("#position")).to_have_text("1 of 5")
    opened.get_by_label("Show", exact=True).select_option(label="Duplicates (1)")
    expect(question(opened)).to_have_text("2 identical photos of box")
    question(opened).focus()
    opened.keyboard.press("2")
    opened.keyboard.press("o")
    expect(question(opened)).to_have_text("No findings left here")
    saved(opened, "1 kept, 0 relabelled, 1 excluded")
    assert decisions(review.manifest.path) == {
        COPIES[0]: ("exclude", "box", ""),
        COPIES[1]: ("keep", "box", ""),
    }
    opened.get_by_role("button", name="Show all 7 findings left").click()
    expect(opened.locator("#position")).to_have_text("1 of 8")
    opened.get_by_role("button", name="Undo").click()
    expect(question(opened)).to_have_text("2 identical photos of box")
    saved(opened, "0 kept, 0 relabelled, 0 excluded")
    assert not decisions(review.manifest.path)
    expect(opened.get_by_role("button", name="Undo")).to_be_disabled()


def test_photos_side_by_side(page: Page, tab: OpenReview, review: Review) -> None:
    opened = tab(page)
    opened.get_by_label("Show", exact=True).select_option(label="Conflicting labels (1)")
    expect(card(opened, 1)).to_contain_text("cross: very likely, 90%")
    expect(opened.get_by_role("button", name="Keep the one labelled cross")).to_be_visible()
    card(opened, 2).locator(".stage").focus()
    expect(card(opened, 2)).to_have_attribute("data-selected", "")
    card(opened, 2).get_by_role("button", name="Relabel").click()
    opened.locator("dialog").get_by_role("option", name="cross").click()
    expect(card(opened, 2).locator(".verdict")).to_have_text("Relabelled cross")
    expect(card(opened, 1).locator(".stage")).to_be_focused()
    opened.get_by_role("button", name="Keep both").click()
    expect(question(opened)).to_have_text("No findings left here")
    saved(opened, "1 kept, 1 relabelled, 0 excluded")
    assert decisions(review.manifest.path)[CONFLICT[1]] == ("relabel", "cross", "disc"), (
        "keeping all keeps its new label"
    )


def test_a_decision_that_could_not_be_saved_is_shown(
    page: Page, tab: OpenReview, review: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = tab(page)

    def full(*_: object) -> None:
        raise StorageFull("the disk is full: free some space")

    with monkeypatch.context() as patch:
        patch.setattr(manifests, "write_bytes", full)
        opened.keyboard.press("x")
        expect(opened.get_by_role("alert")).to_have_text(
            "This decision was not saved. The disk is full: free some space. "
        )
        expect(question(opened)).to_have_text("Labelled box. Is it disc?")
    expect(opened.locator("#far")).to_have_text("0 of 8 reviewed")
    opened.keyboard.press("k")
    saved(opened, "1 kept")
    expect(opened.get_by_role("alert")).to_be_empty()
    assert len(decisions(review.manifest.path)) == 1


def test_keys_can_be_turned_off(page: Page, tab: OpenReview) -> None:
    opened = tab(page)
    opened.keyboard.press("?")
    opened.get_by_label("Use single keys").uncheck()
    opened.get_by_role("button", name="Close").click()
    opened.keyboard.press("x")
    opened.keyboard.press("ArrowRight")
    expect(opened.locator("#position")).to_have_text("2 of 8")
    expect(opened.locator("#far")).to_have_text("0 of 8 reviewed")


def test_a_thousand_classes_and_hostile_names(
    wrong: Dataset, tmp_path: Path, tab: OpenReview
) -> None:
    hostile = "<img src=x onerror=document.title='gotcha'>"
    review = begun(wrong, tmp_path, (hostile, *(f"class {n:03}" for n in range(996))))
    with shown(review) as page:
        opened = tab(page)
        opened.keyboard.press("l")
        expect(
            opened.get_by_text("100 of 999 classes shown; type to narrow.").or_(
                opened.get_by_text("1,000 classes shown")
            )
        ).to_be_visible()
        opened.keyboard.type("<img")
        expect(opened.locator("dialog").get_by_role("option")).to_have_text([hostile])
        opened.keyboard.press("Enter")
        opened.keyboard.press("ArrowLeft")
        expect(opened.locator(".verdict")).to_have_text(f"Relabelled {hostile}")
        saved(opened, "1 relabelled")
        assert "gotcha" not in opened.title() and opened.locator("#item img[src=x]").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_anybody_can_use_it_on_a_phone(page: Page, tab: OpenReview, theme: str) -> None:
    opened = tab(
        page,
        viewport={"width": 360, "height": 740},
        has_touch=True,
        is_mobile=True,
        color_scheme=theme,
    )
    for kind in ("suspect-label", "conflicting-label"):
        opened.locator("#kind").select_option(kind)
        expect(opened.locator("#position")).to_contain_text("1 of")
        assert opened.evaluate("document.documentElement.scrollWidth") <= 360
        small = opened.locator("button:visible").evaluate_all(
            "all => all.filter(b => b.offsetHeight < 44 || b.offsetWidth < 44).map(b => "
            "b.textContent)"
        )
        assert small == []
        assert not violations(opened)
    opened.locator("#kind").select_option("suspect-label")
    expect(opened.get_by_role("button", name="Exclude")).to_be_in_viewport()
    opened.get_by_role("button", name="Exclude").tap()
    saved(opened, "1 excluded")


def test_the_end_can_be_used_by_anybody(page: Page, tab: OpenReview, review: Review) -> None:
    opened = tab(page)
    for _ in range(8):
        opened.keyboard.press("ArrowRight")
    expect(question(opened)).to_have_text("8 findings left")
    assert not violations(opened)
    opened.keyboard.press("?")
    assert not violations(opened)


def test_without_its_key_the_page_says_what_to_do(page: Page, browser: Browser) -> None:
    context = browser.new_context()
    opened = context.new_page()
    answer = opened.goto(page.address)
    assert answer and answer.status == 403
    expect(opened.get_by_role("heading")).to_have_text("This page needs its key")
    assert not violations(opened)
    context.close()


def test_an_unsure_guess_is_a_question_with_two_answers(tab: OpenReview, tmp_path: Path) -> None:
    """Enter is the model's first guess, R its second."""
    (tmp_path / "new").mkdir()
    lines = ["path,label,probability,unsure,label2,probability2,error"]
    for number, (label, p, second) in enumerate(
        [("cross", 0.44, "box"), ("disc", 0.5, "cross"), ("box", 0.61, "disc")]
    ):
        picture(label, number).save(tmp_path / "new" / f"{number}.jpg")
        lines.append(f"new/{number}.jpg,{label},{p},true,{second},{0.9 - p},")
    (tmp_path / "guesses.csv").write_text("\n".join(lines) + "\n")
    review = open_review(tmp_path / "guesses.csv", find_suspects=False)
    with shown(review) as page:
        opened = tab(page)
        heading = opened.locator("#item h2")
        expect(heading).to_have_text("Is it cross or box?")
        expect(opened.get_by_role("button", name="It is cross")).to_have_class("primary wide")
        assert violations(opened) == []
        opened.keyboard.press("r")
        expect(heading).to_have_text("Is it disc or cross?")
        opened.keyboard.press("Enter")
        expect(heading).to_have_text("Is it box or disc?")
        opened.get_by_role("button", name="It is disc").click()
        expect(heading).to_have_text("All done")
    found = {row.path: (row.decision, row.label) for row in review.manifest.rows()}
    assert found == {
        "new/0.jpg": ("relabel", "box"),
        "new/1.jpg": ("keep", "disc"),
        "new/2.jpg": ("relabel", "disc"),
    }
