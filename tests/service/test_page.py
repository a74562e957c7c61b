"""The upload page in a real browser against a real server; rare responses are substituted."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Error, FilePayload, Locator, Page, Route, expect

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

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


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
    """The card, once it has an answer."""
    found = card(page, name)
    expect(found).to_have_attribute("data-state", re.compile("^(sure|unsure)$"))
    return found


def changed(page: Page, path: str, change: dict[str, Any]) -> None:
    """Replace some fields of the server's own response, or of its first result."""

    def answer(route: Route) -> None:
        fetched = route.fetch()
        said = fetched.json()
        (said["results"][0] if "results" in said else said).update(change)
        route.fulfill(response=fetched, json=said)

    page.route(f"**{path}*", answer)


def result(box: float, disc: float, cross: float, *, unsure: bool) -> dict[str, Any]:
    """The fields of a prediction, the probabilities given."""
    top = [
        {"label": label, "probability": p}
        for label, p in (("box", box), ("disc", disc), ("cross", cross))
    ]
    return {"label": "box", "probability": box, "unsure": unsure, "top": top}


SURE = result(0.93, 0.05, 0.02, unsure=False)
UNSURE = result(0.41, 0.35, 0.24, unsure=True)


def drawn(shown: Locator) -> str:
    """The pixels of a card's heat map."""
    pixels: str = shown.locator("canvas").evaluate(
        "canvas => canvas.hidden ? '' : canvas.toDataURL()"
    )
    return pixels


# What gets in


def test_a_chosen_photo_is_answered_as_the_api_does(open_page: OpenPage, server: Server) -> None:
    page = open_page()
    with page.expect_response("**/v1/predict*") as response:
        choose(page, photo())
    said = response.value.json()["results"][0]
    shown = answered(page)
    expect(shown.locator(".bars .what, .choices .what")).to_have_text(
        [each["label"] for each in said["top"]]
    )
    expect(shown).to_contain_text(said["label"])
    assert response.value.request.headers["content-type"] == "image/jpeg"
    expect(shown.get_by_role("img", name="Preview of box.jpg")).to_be_visible()
    expect(page.locator("#facts")).to_contain_text("3 classes")
    test = server.get("/v1/model")["scores"]["test"]
    expect(page.locator("#facts")).to_contain_text(f"on {test['n']} photos")


def test_the_answer_is_announced(open_page: OpenPage) -> None:
    page = open_page()
    changed(page, "/v1/predict", SURE)
    choose(page, photo())
    expect(page.locator("#news")).to_have_text("box.jpg: box, 93 percent")
    expect(page.locator("#news")).to_have_attribute("aria-live", "polite")


def transfer(page: Page, *files: FilePayload) -> Any:
    """A DataTransfer that holds the files."""
    given = [
        [file["name"], file["mimeType"], base64.b64encode(file["buffer"]).decode()]
        for file in files
    ]
    return page.evaluate_handle(
        """files => {
            const transfer = new DataTransfer();
            for (const [name, type, text] of files) {
                const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
                transfer.items.add(new File([bytes], name, {type}));
            }
            return transfer;
        }""",
        given,
    )


def test_photos_can_be_dropped_anywhere(open_page: OpenPage) -> None:
    page = open_page()
    dropped = transfer(page, photo("a.jpg"), photo("b.jpg", "disc"))
    page.dispatch_event("footer", "dragenter", {"dataTransfer": dropped})
    expect(page.locator("body")).to_have_class("dropping")
    page.dispatch_event("footer", "drop", {"dataTransfer": dropped})
    answered(page, "a.jpg")
    answered(page, "b.jpg")
    expect(page.locator("body")).not_to_have_class(re.compile("dropping"))


def paste(page: Page, dropped: Any) -> None:
    page.evaluate(
        "data => document.body.dispatchEvent(new ClipboardEvent('paste', "
        "{clipboardData: data, bubbles: true, cancelable: true}))",
        dropped,
    )


def test_a_photo_can_be_pasted(open_page: OpenPage) -> None:
    page = open_page()
    paste(page, transfer(page, photo("image.png")))
    answered(page, "image.png")
    paste(page, transfer(page))
    expect(page.get_by_role("alert")).to_contain_text("The clipboard holds no photo")


def test_a_finger_gets_the_camera_and_a_mouse_does_not(open_page: OpenPage) -> None:
    phone = open_page(has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844})
    expect(phone.get_by_text("Take a photo")).to_be_visible()
    expect(phone.locator("#camera")).to_have_attribute("capture", "environment")
    phone.set_input_files("#camera", [photo("taken.jpg")])
    answered(phone, "taken.jpg")
    expect(open_page().get_by_text("Take a photo")).to_be_hidden()


def test_several_come_newest_first_and_two_at_a_time(open_page: OpenPage) -> None:
    page = open_page()
    running, most = 0, 0

    def count(route: Route) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        route.continue_()

    def ended(_: object) -> None:
        nonlocal running
        running -= 1

    page.route("**/v1/predict*", count)
    page.on("requestfinished", lambda request: ended(request) if "predict" in request.url else None)
    names = [f"{number}.jpg" for number in range(7)]
    choose(page, *(photo(name, "disc", 900 + number) for number, name in enumerate(names)))
    for name in names:
        answered(page, name)
    assert page.locator(".card h3").all_text_contents() == names[::-1]
    assert most == 2
    expect(page.locator("#tally")).to_contain_text("7 photos: ")
    page.get_by_role("button", name="Remove 3.jpg").click()
    assert page.locator(".card h3").all_text_contents() == [
        name for name in names[::-1] if name != "3.jpg"
    ]
    expect(page.locator("article").nth(3)).to_be_focused()
    page.get_by_role("button", name="Remove all").click()
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#choose")).to_be_focused()


def test_an_upload_can_be_cancelled_and_the_rest_go_on(open_page: OpenPage) -> None:
    page = open_page()
    held: list[Route] = []
    page.route("**/v1/predict*", lambda route: held.append(route))
    choose(page, *(photo(f"{number}.jpg") for number in range(3)))
    expect(page.locator("[data-state=looking], [data-state=uploading]")).to_have_count(2)
    expect(card(page, "2.jpg")).to_contain_text("Waiting for its turn")
    expect(card(page, "0.jpg").get_by_role("progressbar")).to_have_attribute(
        "aria-label", "Progress of 0.jpg"
    )
    page.get_by_role("button", name="Cancel 0.jpg").click()
    expect(page.locator(".card")).to_have_count(2)
    expect(card(page, "2.jpg")).to_have_attribute("data-state", re.compile("looking|uploading"))
    assert len(held) == 3
    for (
        route
    ) in held:  # in whatever order the two first ones came; the cancelled one is nobody's any more
        with contextlib.suppress(Error):
            route.continue_()
    answered(page, "1.jpg")
    answered(page, "2.jpg")


def test_a_long_name_pushes_nothing_out_of_its_card(open_page: OpenPage) -> None:
    page = open_page()
    name = f"{'06a00c0f-5f9a-410d-a7da-3881a9df3a71' * 3}.jpg"
    choose(page, photo(name))
    answered(page, name)
    beyond = page.evaluate(
        """() => {
            const card = document.querySelector(".card").getBoundingClientRect();
            return [...document.querySelectorAll(".card .text *")]
                .map(node => node.getBoundingClientRect())
                .filter(box => box.right > card.right + 1).length;
        }"""
    )
    assert beyond == 0


# What is sent


def sent(page: Page, file: FilePayload) -> bytes:
    """The body that the page sends for a file; Playwright itself does not see a Blob's bytes."""
    page.evaluate(
        """() => {
            const send = XMLHttpRequest.prototype.send;
            window.taken = new Promise(resolve => {
                XMLHttpRequest.prototype.send = function (body) {
                    resolve(body);
                    return send.call(this, body);
                };
            });
        }"""
    )
    choose(page, file)
    text = page.evaluate(
        """async () => {
            const bytes = new Uint8Array(await (await window.taken).arrayBuffer());
            let text = '';
            for (const byte of bytes) text += String.fromCharCode(byte);
            return btoa(text);
        }"""
    )
    return base64.b64decode(text)


def test_a_large_photo_is_shrunk_before_it_is_sent(open_page: OpenPage) -> None:
    waves = np.add.outer(np.sin(np.arange(2000) / 30), np.cos(np.arange(3000) / 40)) * 50 + 128
    noise = np.random.default_rng(0).normal(0, 12, (2000, 3000, 3))
    large = encoded(
        Image.fromarray(np.clip(waves[..., None] + noise, 0, 255).astype(np.uint8)), quality=95
    )
    assert len(large) > 2_000_000
    page = open_page()
    body = sent(page, {"name": "large.jpg", "mimeType": "image/jpeg", "buffer": large})
    assert len(body) < 300_000
    with Image.open(io.BytesIO(body)) as small:
        assert (small.format, small.size) == ("JPEG", (1024, 683))
    answered(page, "large.jpg")


def test_a_turned_photo_is_sent_upright(open_page: OpenPage) -> None:
    image = Image.new("RGB", (1600, 1200), "red")
    image.paste("blue", (0, 0, 800, 1200))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter: its left is the top
    page = open_page()
    body = sent(
        page, {"name": "turned.jpg", "mimeType": "image/jpeg", "buffer": encoded(image, exif=exif)}
    )
    with Image.open(io.BytesIO(body)) as upright:
        assert upright.size == (768, 1024)
        assert not upright.getexif().get(0x0112)
        top, bottom = upright.getpixel((384, 100)), upright.getpixel((384, 900))
    assert isinstance(top, tuple) and isinstance(bottom, tuple)
    assert top[2] > 200 > top[0] and bottom[0] > 200 > bottom[2]


def test_transparency_becomes_white(open_page: OpenPage) -> None:
    body = sent(
        open_page(),
        {
            "name": "clear.png",
            "mimeType": "image/png",
            "buffer": encoded(Image.new("RGBA", (1500, 900), (0, 0, 0, 0)), "PNG"),
        },
    )
    with Image.open(io.BytesIO(body)) as flat:
        assert flat.size == (1024, 614)
        assert flat.getpixel((500, 300)) == (255, 255, 255)


def test_a_small_photo_is_sent_as_it_is(open_page: OpenPage) -> None:
    small = photo()
    assert sent(open_page(), small) == small["buffer"]


# What the card shows


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
    changed(page, "/v1/predict", {**SURE, "heatmaps": maps})
    choose(page, photo())
    shown = answered(page)
    assert not drawn(shown)
    seen = set()
    for label in ("box", "disc", "cross"):
        shown.get_by_role("radio", name=label).check()
        expect(
            shown.get_by_role("img", name=f"Heat map: where the model looked for {label}")
        ).to_be_visible()
        seen.add(drawn(shown))
    assert len(seen) == 3 and "" not in seen
    with Image.open(io.BytesIO(base64.b64decode(drawn(shown).partition(",")[2]))) as cross:
        opacity = np.asarray(cross)[..., 3] / 255
    assert 0.3 < opacity[4, 251] < 0.5 and opacity[251, 251] == 0, "opacity follows the value"
    photo_box, canvas_box = (
        shown.locator(each).bounding_box() for each in (".frame img", "canvas")
    )
    assert photo_box == canvas_box, "the map lies over the photo"
    shown.get_by_role("radio", name="Off").check()
    assert not drawn(shown)


def test_the_servers_own_heat_maps_are_drawn(open_page: OpenPage) -> None:
    page = open_page()
    with page.expect_response("**/v1/predict*") as response:
        choose(page, photo())
    maps = response.value.json()["results"][0]["heatmaps"]
    shown = answered(page)
    assert [each["label"] for each in maps] == shown.locator(".segments label").all_text_contents()[
        1:
    ]
    shown.get_by_role("radio").nth(1).check()
    assert drawn(shown)


def test_not_being_sure_is_said_in_words_and_offers_the_top_three(
    open_page: OpenPage, server: Server
) -> None:
    page = open_page()
    changed(page, "/v1/predict", UNSURE)
    choose(page, photo())
    shown = answered(page)
    expect(shown).to_have_attribute("data-state", "unsure")
    expect(shown.locator(".verdict")).to_have_text("Not sure")
    expect(shown.locator(".sureness")).to_have_text("Perhaps box (41%)")
    expect(page.locator("#news")).to_have_text("box.jpg: not sure, perhaps box, 41 percent")
    expect(shown.locator(".choice")).to_have_text(["box41%", "disc35%", "cross24%"])
    assert shown.evaluate("card => getComputedStyle(card).borderStyle") == "dashed", (
        "not by colour alone"
    )
    before = server.get("/v1/corrections/stats")["total"]
    shown.locator(".choice").nth(1).click()
    expect(shown).to_contain_text("Thank you. Noted as disc.")
    assert server.get("/v1/corrections/stats")["total"] == before + 1


def test_names_are_text_never_markup(open_page: OpenPage) -> None:
    page = open_page()
    name, label = "<img src=x onerror=alert(1)>.jpg", "<b onclick='alert(2)'>hat</b>"
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    changed(
        page,
        "/v1/predict",
        {**UNSURE, "label": label, "top": [{"label": label, "probability": 0.4}]},
    )
    changed(page, "/v1/model", {"name": "<i>shop</i>", "classes": [label, "box"]})
    page.reload()
    expect(page.locator("#facts")).to_contain_text("<i>shop</i>")
    choose(page, photo(name))
    shown = answered(page, name)
    expect(shown).to_contain_text(f"Perhaps {label}")
    shown.get_by_role("button", name="Something else").click()
    expect(shown.get_by_role("option", name=label)).to_be_visible()
    assert (
        page.locator("main b, main i, .card img[src=x]").count() == page.locator("#lead b").count()
    )


# Corrections


def test_right_reaches_the_database_and_can_be_changed(open_page: OpenPage, server: Server) -> None:
    page = open_page()
    before = server.get("/v1/corrections/stats")
    changed(page, "/v1/predict", {"unsure": False})
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
    page = open_page()
    changed(page, "/v1/model", {"classes": [f"class {number}" for number in range(1000)]})
    page.reload()
    changed(page, "/v1/predict", SURE)
    choose(page, photo())
    shown = answered(page)
    shown.get_by_role("button", name="Something else").click()
    field = shown.get_by_role("combobox", name="What is it really?")
    expect(field).to_be_focused()
    expect(shown).to_contain_text("100 of 1,000 classes shown; type to narrow.")
    field.fill("SS 99")
    expect(shown.get_by_role("option")).to_have_text(
        ["class 99", *(f"class {number}" for number in range(990, 1000))]
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


def test_without_corrections_nothing_is_asked(open_page: OpenPage) -> None:
    page = open_page()
    changed(page, "/v1/model", {"corrections": False})
    changed(page, "/v1/predict", {**UNSURE, "receipt": None})
    page.reload()
    choose(page, photo())
    shown = answered(page)
    expect(shown.locator(".bars li")).to_have_count(3)
    expect(shown.locator(".corrections, .choice")).to_have_count(0)


def test_storing_that_failed_is_said_and_can_be_tried_again(open_page: OpenPage) -> None:
    page = open_page()
    changed(page, "/v1/predict", {**SURE})
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
    assert not drawn(shown), "the former answer's heat map is gone"
    shown.get_by_role("button", name="Right", exact=True).click()
    expect(shown).to_contain_text("Thank you. Noted as box.")


def test_a_token_is_asked_for_once_and_kept_photos_are_announced(
    open_page: OpenPage, trained: Path, tmp_path: Path
) -> None:
    with serving(trained, tmp_path, "--keep-photos", token="correct horse") as server:
        page = open_page(at=server)
        dialog = page.get_by_role("dialog", name="This server asks for a token")
        expect(dialog.get_by_label("Token", exact=True)).to_be_focused()
        dialog.get_by_role("button", name="Not now").click()
        expect(page.get_by_role("alert").first).to_contain_text("Try again and enter the token.")
        choose(page, photo("a.jpg"), photo("b.jpg"))
        dialog.get_by_label("Token", exact=True).fill("battery staple")
        dialog.get_by_role("button", name="Go on").click()
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


# Refusals

CUT = encoded(picture("box", 1), quality=92)[:900]
CUT_FILE: FilePayload = {"name": "cut.jpg", "mimeType": "image/jpeg", "buffer": CUT}


def test_a_bad_file_does_not_push_good_ones_away(open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 390, "height": 844})
    choose(page, photo("box.jpg"), photo("disc.jpg", "disc", 902))
    for name in ("box.jpg", "disc.jpg"):
        answered(page, name)
    choose(page, CUT_FILE)
    expect(card(page, "cut.jpg")).to_have_attribute("data-state", "failed")
    names = page.locator(".card h3").all_inner_texts()
    assert names == ["disc.jpg", "box.jpg", "cut.jpg"]
    # The two buttons of the question stand in one row, on a phone's screen too.
    buttons = card(page, "box.jpg").locator(".actions button").all()
    tops = {round(box["y"]) for button in buttons if (box := button.bounding_box())}
    assert len(buttons) == 2 and len(tops) == 1


def test_cards_of_a_row_are_equally_high(open_page: OpenPage) -> None:
    page = open_page(reduced_motion="reduce")
    choose(page, photo(), CUT_FILE)
    answered(page, "box.jpg")
    expect(card(page, "cut.jpg")).to_have_attribute("data-state", "failed")
    boxes = [each.bounding_box() for each in page.locator(".card").all()]
    assert len({round(box["y"]) for box in boxes if box}) == 1
    assert len({round(box["height"]) for box in boxes if box}) == 1


@pytest.mark.parametrize(
    ("name", "kind", "content", "said", "todo"),
    [
        (
            "notes.txt",
            "text/plain",
            b"only words",
            "Text is not accepted",
            "accepted are JPEG, PNG",
        ),
        ("cut.jpg", "image/jpeg", CUT, "truncated", "Copy the photo from the camera again"),
        ("IMG_1.HEIC", "image/heic", HEIC, "HEIC is not accepted", "Export it as JPEG"),
        ("empty.png", "image/png", b"", "empty", "Copy the photo from the camera again"),
    ],
)
def test_refused_files_say_why_and_what_to_do(
    open_page: OpenPage, name: str, kind: str, content: bytes, said: str, todo: str
) -> None:
    page = open_page()
    choose(page, {"name": name, "mimeType": kind, "buffer": content}, photo())
    shown = card(page, name)
    expect(shown).to_have_attribute("data-state", "failed")
    expect(shown).to_contain_text(re.compile(said, re.I))
    expect(shown).to_contain_text(re.compile(todo, re.I))
    expect(shown.locator(".trouble p")).to_have_count(2)  # what went wrong, and one advice
    expect(shown.get_by_role("button", name="Try again")).to_have_count(0)
    expect(page.locator("#news")).to_contain_text(name)
    answered(page)


CODES = {
    "bad-request": 400,
    "too-many-parts": 400,
    "bad-host": 400,
    "forbidden": 403,
    "not-found": 404,
    "method-not-allowed": 405,
    "request-timeout": 408,
    "conflict": 409,
    "body-too-large": 413,
    "image-too-large": 413,
    "unsupported-format": 415,
    "unsupported-media-type": 415,
    "unreadable-image": 422,
    "invalid": 422,
    "overloaded": 503,
    "deadline": 503,
    "not-ready": 503,
    "storage-full": 507,
    "storage-failed": 503,
    "internal": 500,
}


def test_every_refusal_of_the_api_is_explained(open_page: OpenPage) -> None:
    page = open_page()
    advice = page.evaluate(
        "async codes => { const {advice} = await import('/static/messages.js');"
        " return codes.map(advice); }",
        [*CODES],
    )
    assert all(len(text) > 20 for text in advice)
    for code, status in CODES.items():
        if status == 503:
            continue
        refuse(page, "/v1/predict", status, code, f"because of {code}")
        choose(page, photo(f"{code}.jpg"))
        shown = card(page, f"{code}.jpg")
        expect(shown).to_have_attribute("data-state", "failed")
        expect(shown).to_contain_text(f"Because of {code}.")


def test_a_busy_server_is_tried_again_after_the_time_it_names(open_page: OpenPage) -> None:
    page = open_page()
    refuse(
        page,
        "/v1/predict",
        503,
        "overloaded",
        "64 photos wait already",
        times=2,
        **{"Retry-After": "1"},
    )
    choose(page, photo())
    expect(card(page, "box.jpg")).to_contain_text(
        "The server is busy. Trying again in 1 second (1 of 3)"
    )
    expect(card(page, "box.jpg")).to_contain_text("(2 of 3)")
    answered(page)


def test_after_three_tries_it_is_the_persons_turn(open_page: OpenPage) -> None:
    page = open_page()
    page.clock.install()
    asked: list[str] = []
    page.on(
        "request", lambda request: asked.append(request.url) if "predict" in request.url else None
    )
    refuse(
        page,
        "/v1/predict",
        503,
        "overloaded",
        "64 photos wait already",
        times=4,
        **{"Retry-After": "7"},
    )
    choose(page, photo())
    shown = card(page, "box.jpg")
    for number in (1, 2, 3):
        expect(shown).to_contain_text(f"in 7 seconds ({number} of 3)")
        page.clock.run_for(2000)
        expect(shown).to_contain_text(f"in 5 seconds ({number} of 3)")
        page.clock.run_for(5000)
    expect(shown).to_have_attribute("data-state", "failed")
    expect(shown).to_contain_text("64 photos wait already.Try again in a moment.")
    assert len(asked) == 4
    shown.get_by_role("button", name="Try again").click()
    answered(page)


def test_offline_photos_go_on_when_the_network_is_back(open_page: OpenPage) -> None:
    page = open_page()
    expect(page.locator("#facts")).to_contain_text("3 classes")
    page.context.set_offline(True)
    choose(page, photo())
    expect(card(page, "box.jpg")).to_contain_text("The server could not be reached.")
    expect(card(page, "box.jpg").get_by_role("button", name="Try again")).to_be_visible()
    page.context.set_offline(False)
    answered(page)


def test_a_proxys_error_page_is_survived(open_page: OpenPage) -> None:
    page = open_page()
    page.route(
        "**/v1/predict*",
        lambda route: route.fulfill(
            status=502, content_type="text/html", body="<h1>Bad gateway</h1>"
        ),
    )
    choose(page, photo())
    expect(card(page, "box.jpg")).to_contain_text(
        "The server answered with status 502 and no explanation."
    )


def test_a_reloaded_model_brings_its_new_classes(open_page: OpenPage) -> None:
    page = open_page()
    expect(page.locator("#facts")).to_contain_text("3 classes")
    changed(page, "/v1/model", {"sha256": "another", "classes": ["box", "disc", "cross", "star"]})

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


# For everybody


def test_all_of_it_works_with_the_keyboard_alone(open_page: OpenPage) -> None:
    page = open_page()
    changed(page, "/v1/predict", SURE)
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
    assert drawn(shown)
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


@pytest.mark.parametrize("width", [320, 640])
@pytest.mark.parametrize("state", ["sure", "unsure"])
def test_narrow_screens_need_no_sideways_scrolling(
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
    changed(
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_upload_page(open_page: OpenPage, scheme: str) -> None:
    page = open_page(color_scheme=scheme, reduced_motion="reduce")
    expect(page.locator("#facts")).to_contain_text("3 classes")
    assert violations(page) == []
    changed(page, "/v1/predict", SURE)
    choose(
        page, photo("sure.jpg"), {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"words"}
    )
    answered(page, "sure.jpg").get_by_role("radio").nth(1).check()
    changed(page, "/v1/predict", UNSURE)
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
