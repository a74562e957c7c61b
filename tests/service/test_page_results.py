"""The upload page in a real browser: results, heat maps, corrections, accessibility."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Route, expect

from support.browser import (  # noqa: F401 (fixtures)
    OpenPage,
    browser,
    open_page,
    refuse,
    server,
    violations,
)
from support.data import encoded, picture
from support.serving import Server, serving
from support.upload_page import (
    SURE,
    UNSURE,
    answered,
    card,
    change_response,
    choose,
    classes,
    heat_map_pixels,
    photo,
)


def test_the_switch_changes_the_heat_map(open_page: OpenPage) -> None:
    page = open_page()
    maps = [
        {"label": label, "width": 2, "height": 2, "values": values}
        for label, values in (
            ("box", [[1, 0], [0, 0]]),
            ("disc", [[0, 0], [0, 1]]),
            ("cross", [[0, 0.5], [0, 0]]),
        )
    ]
    change_response(page, "/v1/predict", {**SURE, "heatmaps": maps})
    choose(page, photo())
    shown = answered(page)
    assert not heat_map_pixels(shown)
    seen = set()
    for label in ("box", "disc", "cross"):
        shown.get_by_role("radio", name=label).check()
        expect(
            shown.get_by_role("img", name=f"Heat map: where the model looked for {label}")
        ).to_be_visible()
        seen.add(heat_map_pixels(shown))
    assert len(seen) == 3 and "" not in seen
    with Image.open(
        io.BytesIO(base64.b64decode(heat_map_pixels(shown).partition(",")[2]))
    ) as cross:
        opacity = np.asarray(cross)[..., 3] / 255
    assert 0.3 < opacity[4, 251] < 0.5 and opacity[251, 251] == 0, "opacity follows the value"
    photo_box, canvas_box = (
        shown.locator(each).bounding_box() for each in (".frame img", "canvas")
    )
    assert photo_box == canvas_box, "the heat map covers the photo"
    shown.get_by_role("radio", name="Off").check()
    assert not heat_map_pixels(shown)


@pytest.mark.parametrize(
    ("rule", "size", "covered"),
    [
        ({"size": 64}, (600, 200), (0, 0, 256, 256)),
        ({"size": 64, "share": 1.0, "keep_aspect": True}, (600, 200), (85, 0, 171, 256)),
        ({"size": 60, "share": 0.75, "keep_aspect": True}, (400, 800), (32, 80, 224, 176)),
        ({"size": 60, "share": 0.75, "keep_aspect": False}, (400, 800), (32, 32, 224, 224)),
    ],
    ids=["squashed", "middle of a wide photo", "inside of a high photo", "inside of both sides"],
)
def test_a_heat_map_covers_what_the_resize_rule_keeps(
    open_page: OpenPage,
    rule: dict[str, Any],
    size: tuple[int, int],
    covered: tuple[int, int, int, int],
) -> None:
    page = open_page(before=lambda page: change_response(page, "/v1/model", {"resize": rule}))
    maps = [{"label": "box", "width": 2, "height": 2, "values": [[1, 1], [1, 1]]}]
    change_response(page, "/v1/predict", {**SURE, "heatmaps": maps})
    data = encoded(picture("box", 1, size), quality=92)
    choose(page, {"name": "box.jpg", "mimeType": "image/jpeg", "buffer": data})
    shown = answered(page)
    shown.get_by_role("radio", name="box").check()
    with Image.open(io.BytesIO(base64.b64decode(heat_map_pixels(shown).partition(",")[2]))) as map_:
        assert map_.getchannel("A").getbbox() == covered


def test_heat_maps_of_the_server_are_drawn(open_page: OpenPage) -> None:
    page = open_page()
    with page.expect_response("**/v1/predict*") as response:
        choose(page, photo())
    maps = response.value.json()["results"][0]["heatmaps"]
    shown = answered(page)
    assert [each["label"] for each in maps] == shown.locator(".segments label").all_text_contents()[
        1:
    ]
    shown.get_by_role("radio").nth(1).check()
    assert heat_map_pixels(shown)


def test_an_unsure_result_is_stated_in_words_with_the_top_three(
    open_page: OpenPage, server: Server
) -> None:
    page = open_page()
    change_response(page, "/v1/predict", UNSURE)
    choose(page, photo())
    shown = answered(page)
    expect(shown).to_have_attribute("data-state", "unsure")
    expect(shown.locator(".verdict")).to_have_text("Not sure")
    expect(shown.locator(".sureness")).to_have_text("Perhaps box (41%)")
    expect(page.locator("#news")).to_have_text("box.jpg: not sure, perhaps box, 41 percent")
    expect(shown.locator(".choice")).to_have_text(["box41%", "disc35%", "cross24%"])
    assert shown.evaluate("card => getComputedStyle(card).borderStyle") == "dashed", (
        "the state is not shown by colour alone"
    )
    before = server.get("/v1/corrections/stats")["total"]
    shown.locator(".choice").nth(1).click()
    expect(shown).to_contain_text("Thank you. Noted as disc.")
    assert server.get("/v1/corrections/stats")["total"] == before + 1


def test_file_and_class_names_are_shown_as_text_not_markup(open_page: OpenPage) -> None:
    name, label = "<img src=x onerror=alert(1)>.jpg", "<b onclick='alert(2)'>hat</b>"
    described = {"name": "<i>shop</i>", **classes(label, "box")}
    page = open_page(before=lambda page: change_response(page, "/v1/model", described))
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    change_response(
        page,
        "/v1/predict",
        {**UNSURE, "label": label, "top": [{"label": label, "probability": 0.4}]},
    )
    expect(page.locator("#facts")).to_contain_text("<i>shop</i>")
    choose(page, photo(name))
    shown = answered(page, name)
    expect(shown).to_contain_text(f"Perhaps {label}")
    shown.get_by_role("button", name="Something else").click()
    expect(shown.get_by_role("option", name=label)).to_be_visible()
    assert (
        page.locator("main b, main i, .card img[src=x]").count() == page.locator("#lead b").count()
    )


def test_an_answer_is_stored_and_can_be_changed(open_page: OpenPage, server: Server) -> None:
    page = open_page()
    before = server.get("/v1/corrections/stats")
    change_response(page, "/v1/predict", {"unsure": False})
    choose(page, photo())
    shown = answered(page)
    expect(shown).to_contain_text("Your answer is stored, the photo is not.")
    with page.expect_response("**/v1/corrections") as stored:
        shown.get_by_role("button", name="Right", exact=True).click()
    assert stored.value.status == 201 and stored.value.json()["right"] is True
    expect(shown).to_contain_text("Thank you. Noted as")
    after = server.get("/v1/corrections/stats")
    assert (after["total"], after["right"]) == (before["total"] + 1, before["right"] + 1)
    label = shown.locator(".verdict").inner_text()
    other = next(each for each in ("box", "disc", "cross") if each != label)
    shown.get_by_role("button", name="Change").click()
    shown.get_by_role("option", name=other).click()
    expect(shown).to_contain_text(f"Thank you. Noted as {other}.")
    changed_mind = server.get("/v1/corrections/stats")
    assert (changed_mind["total"], changed_mind["right"]) == (after["total"], after["right"] - 1), (
        "the newest answer counts"
    )
    assert {"predicted": label, "answer": other} in [
        {"predicted": m["predicted"], "answer": m["answer"]} for m in changed_mind["mistaken"]
    ]


def test_a_thousand_classes_can_be_searched(open_page: OpenPage) -> None:
    many = classes(*(f"class {number}" for number in range(1000)))
    page = open_page(before=lambda page: change_response(page, "/v1/model", many))
    change_response(page, "/v1/predict", SURE)
    choose(page, photo())
    shown = answered(page)
    shown.get_by_role("button", name="Something else").click()
    field = shown.get_by_role("combobox", name="What is it really?")
    expect(field).to_be_focused()
    expect(shown).to_contain_text("100 of 1,000 classes shown; type to narrow.")
    field.fill("SS 99")
    expect(shown.get_by_role("option")).to_have_text(
        [
            "class 99",
            *(f"class {number}" for number in range(990, 1000)),
            "“SS 99” as a new category",
        ]
    )
    field.fill("no such thing")
    expect(shown).to_contain_text("None of 1,000 classes contains “no such thing”.")
    field.fill("class 42")
    page.route(
        "**/v1/corrections",
        lambda route: route.fulfill(
            status=201, json={"id": 1, "right": False, "stored_photo": False}
        ),
    )
    with page.expect_request("**/v1/corrections") as request:
        field.press("ArrowDown")
        field.press("Enter")
    assert json.loads(request.value.post_data or "")["answer"] == "class 420"
    expect(shown).to_contain_text("Noted as class 420")


def test_without_corrections_no_answer_is_requested(open_page: OpenPage) -> None:
    page = open_page(before=lambda page: change_response(page, "/v1/model", {"corrections": False}))
    change_response(page, "/v1/predict", {**UNSURE, "receipt": None})
    choose(page, photo())
    shown = answered(page)
    expect(shown.locator(".bars li")).to_have_count(3)
    expect(shown.locator(".corrections, .choice")).to_have_count(0)


def test_a_failed_answer_is_reported_and_can_be_retried(open_page: OpenPage) -> None:
    page = open_page()
    change_response(page, "/v1/predict", {**SURE})
    choose(page, photo())
    shown = answered(page)
    shown.get_by_role("radio").nth(1).check()
    refuse(page, "/v1/corrections", 507, "storage-full", "the disk is full; nothing was stored")
    shown.get_by_role("button", name="Right", exact=True).click()
    alert = shown.get_by_role("alert")
    expect(alert).to_contain_text(
        "Your answer was not stored. The disk is full; nothing was stored."
    )
    expect(alert).to_contain_text("Tell whoever runs this server that its disk is full")
    page.route("**/v1/corrections", lambda route: route.abort(), times=1)
    shown.get_by_role("button", name="Try again").click()
    expect(alert).to_contain_text(
        "The server could not be reached.Check your connection and try again."
    )
    refuse(page, "/v1/corrections", 409, "conflict", "the receipt is another server's")
    shown.get_by_role("button", name="Try again").click()
    expect(alert).to_contain_text("Ask about the photo again.")
    shown.get_by_role("button", name="Ask again").click()
    shown.get_by_role("button", name="Right", exact=True).wait_for()
    assert not heat_map_pixels(shown), "the heat map of the previous result is removed"
    shown.get_by_role("button", name="Right", exact=True).click()
    expect(shown).to_contain_text("Thank you. Noted as box.")


def test_the_token_is_requested_once_and_photo_storage_is_announced(
    open_page: OpenPage, trained: Path, tmp_path: Path
) -> None:
    with serving(trained, tmp_path, "--keep-photos", token="correct horse") as server:
        page = open_page(at=server)
        dialog = page.get_by_role("dialog", name="This server requires a token")
        expect(dialog.get_by_label("Token", exact=True)).to_be_focused()
        dialog.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("alert").first).to_contain_text("Try again and enter the token.")
        choose(page, photo("a.jpg"), photo("b.jpg"))
        dialog.get_by_label("Token", exact=True).fill("battery staple")
        dialog.get_by_role("button", name="Continue").click()
        expect(dialog).to_contain_text("That token was refused.")
        dialog.get_by_label("Token", exact=True).fill("correct horse")
        page.keyboard.press("Enter")
        answered(page, "a.jpg")
        shown = answered(page, "b.jpg")
        expect(page.locator("#notice")).to_be_empty()
        assert page.evaluate("[localStorage.length, Object.values(sessionStorage)]") == [
            0,
            ["correct horse"],
        ]
        expect(shown).to_contain_text("Your answer and the photo are stored")
        with page.expect_response("**/v1/corrections") as stored:
            shown.locator(".right, .choice").first.click()
        assert stored.value.json() == {**stored.value.json(), "right": True, "stored_photo": True}
        assert photo()["buffer"] in [
            path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
        ]
        page.reload()
        expect(page.locator("#facts")).to_contain_text("3 classes")
        expect(dialog).to_be_hidden()


def test_a_reloaded_model_updates_the_classes(open_page: OpenPage) -> None:
    page = open_page()
    expect(page.locator("#facts")).to_contain_text("3 classes")
    change_response(
        page, "/v1/model", {"sha256": "another", **classes("box", "disc", "cross", "star")}
    )

    def answer(route: Route) -> None:
        fetched = route.fetch()
        said = fetched.json()
        said["model"]["sha256"] = "another"
        route.fulfill(response=fetched, json=said)

    page.route("**/v1/predict*", answer)
    choose(page, photo())
    shown = answered(page)
    expect(page.locator("#facts")).to_contain_text("4 classes")
    shown.get_by_role("button", name="omething else").click()
    expect(shown.get_by_role("option", name="star")).to_be_visible()


def test_every_step_works_with_the_keyboard_alone(open_page: OpenPage) -> None:
    page = open_page()
    change_response(page, "/v1/predict", SURE)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the photos")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#choose")).to_be_focused()
    page.locator(":focus").set_input_files([photo()])
    shown = answered(page)
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Remove box.jpg")).to_be_focused()
    page.keyboard.press("Tab")
    expect(shown.get_by_role("radio", name="Off")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(shown.get_by_role("radio").nth(1)).to_be_checked()
    assert heat_map_pixels(shown)
    page.keyboard.press("Tab")
    expect(shown.get_by_role("button", name="Right", exact=True)).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(shown.get_by_role("combobox")).to_be_focused()
    page.keyboard.press("Escape")
    expect(shown.get_by_role("button", name="Right", exact=True)).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.type("cro")
    page.keyboard.press("Enter")
    expect(shown).to_contain_text("Thank you. Noted as cross.")
    expect(shown.get_by_role("button", name="Change")).to_be_focused()


def test_a_service_without_new_classes_offers_none_of_these_only(open_page: OpenPage) -> None:
    page = open_page(before=lambda page: change_response(page, "/v1/model", {"new_classes": False}))
    change_response(page, "/v1/predict", SURE)
    choose(page, photo())
    shown = answered(page)
    shown.get_by_role("button", name="Something else").click()
    shown.get_by_role("combobox").fill("old hat")
    expect(shown).to_contain_text("None of 3 classes contains “old hat”.")
    expect(shown.get_by_role("option")).to_have_count(0)
    expect(shown.get_by_role("button", name="None of these")).to_be_visible()


def test_a_new_category_and_none_of_these_by_keyboard_on_a_phone(
    open_page: OpenPage, server: Server
) -> None:
    page = open_page(viewport={"width": 390, "height": 844})
    change_response(page, "/v1/predict", SURE)
    choose(page, photo(seed=977))
    shown = answered(page)
    before = server.get("/v1/corrections/stats")["none_of_these"]
    shown.get_by_role("button", name="Something else").focus()
    page.keyboard.press("Enter")
    page.keyboard.type("o")
    expect(shown.get_by_role("option")).to_have_text(["box", "cross", "“o” as a new category"])
    page.keyboard.type("ld hat")
    expect(shown.get_by_role("option")).to_have_text(["“old hat” as a new category"])
    assert violations(page) == []
    page.keyboard.press("Enter")
    expect(shown).to_contain_text("Thank you. Noted as old hat, a new category.")
    page.keyboard.press("Enter")
    expect(shown.get_by_role("combobox")).to_be_focused()
    page.keyboard.type("...")
    page.keyboard.press("Enter")
    expect(shown).to_contain_text("This category cannot be used.")
    expect(shown.get_by_role("button", name="Choose again")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(shown.get_by_role("button", name="None of these")).to_be_focused()
    page.keyboard.press("Enter")
    expect(shown).to_contain_text("Thank you. Noted as None of these.")
    assert server.get("/v1/corrections/stats")["none_of_these"] == before + 1
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390


@pytest.mark.parametrize("width", [320, 640])
@pytest.mark.parametrize("state", ["sure", "unsure"])
def test_narrow_screens_do_not_scroll_horizontally(
    open_page: OpenPage, width: int, state: str
) -> None:
    page = open_page(viewport={"width": width, "height": 700}, has_touch=True, is_mobile=True)
    long = "a-very-long-class-name-" * 4
    top = [
        {"label": long, "probability": 0.5},
        {"label": "disc", "probability": 0.3},
        {"label": "cross", "probability": 0.2},
    ]
    maps = [{"label": each["label"], "width": 1, "height": 1, "values": [[1]]} for each in top]
    change_response(
        page,
        "/v1/predict",
        {**SURE, "label": long, "top": top, "unsure": state == "unsure", "heatmaps": maps},
    )
    choose(
        page,
        photo("x" * 150 + ".jpg"),
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"words"},
    )
    expect(page.locator(f"[data-state={state}]")).to_have_count(1)
    expect(page.locator("[data-state=failed]")).to_have_count(1)
    page.locator(f"[data-state={state}]").get_by_role("button", name="omething else").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    small = page.evaluate(
        """() => [...document.querySelectorAll(
                'button, .way label, .segments label, nav a, .foot p a, [role=option],'
                + ' [role=combobox]')]
            .filter(each => each.checkVisibility())
            .filter(each => each.getBoundingClientRect().height < 43.9)
            .map(each => each.outerHTML)"""
    )
    assert not small, "a finger needs 44 pixels"


@pytest.mark.parametrize("said", [SURE, UNSURE], ids=["sure", "unsure"])
def test_a_card_leaves_room_for_the_next_on_a_phone(
    open_page: OpenPage, said: dict[str, object]
) -> None:
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    change_response(page, "/v1/predict", said)
    choose(page, photo())
    shown = answered(page)
    box = shown.bounding_box()
    assert box is not None and box["height"] < 0.67 * 844
    picture = shown.locator(".stage").bounding_box()
    verdict = shown.locator(".verdict").bounding_box()
    assert picture and verdict and picture["x"] + picture["width"] <= verdict["x"], "side by side"
    shown.get_by_role("radio").nth(1).check()
    large = shown.locator(".stage").bounding_box()
    assert large is not None and large["width"] > 300, "a heat map is shown large"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violations_on_the_upload_page(open_page: OpenPage, scheme: str) -> None:
    page = open_page(color_scheme=scheme, reduced_motion="reduce")
    expect(page.locator("#facts")).to_contain_text("3 classes")
    assert violations(page) == []
    change_response(page, "/v1/predict", SURE)
    choose(
        page, photo("sure.jpg"), {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"words"}
    )
    answered(page, "sure.jpg").get_by_role("radio").nth(1).check()
    change_response(page, "/v1/predict", UNSURE)
    choose(page, photo("unsure.jpg"), photo("thanks.jpg"))
    answered(page, "thanks.jpg").locator(".choice").first.click()
    expect(card(page, "thanks.jpg")).to_contain_text("Thank you")
    answered(page, "unsure.jpg")
    card(page, "sure.jpg").get_by_role("button", name="Something else").click()
    assert violations(page) == []


def test_reduced_motion_is_respected(open_page: OpenPage) -> None:
    page = open_page(reduced_motion="reduce")
    choose(page, photo())
    assert answered(page).evaluate("card => getComputedStyle(card).animationName") == "none"
