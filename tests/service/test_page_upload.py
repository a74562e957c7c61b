"""The upload page in a real browser: choosing photos, and what is sent."""

from __future__ import annotations

import base64
import contextlib
import io
import re
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Error, FilePayload, Page, Route, expect

from support.browser import (  # noqa: F401 (fixtures)
    OpenPage,
    browser,
    open_page,
    refuse,
    server,
)
from support.data import encoded
from support.serving import Server
from support.upload_page import (
    SURE,
    answered,
    card,
    change_response,
    choose,
    photo,
)


def test_a_chosen_photo_shows_the_result_of_the_api(open_page: OpenPage, server: Server) -> None:
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
    expect(page.locator("#facts")).to_contain_text(f"{test['n']} photos are too few to say")


def test_the_result_is_announced_to_screen_readers(open_page: OpenPage) -> None:
    page = open_page()
    change_response(page, "/v1/predict", SURE)
    choose(page, photo())
    expect(page.locator("#news")).to_have_text("box.jpg: box, 93 percent")
    expect(page.locator("#news")).to_have_attribute("aria-live", "polite")


def transfer(page: Page, *files: FilePayload) -> Any:
    """Return a DataTransfer that holds the files."""
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


def test_the_camera_is_offered_on_touch_screens_only(open_page: OpenPage) -> None:
    phone = open_page(has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844})
    expect(phone.get_by_text("Take a photo")).to_be_visible()
    expect(phone.locator("#camera")).to_have_attribute("capture", "environment")
    phone.set_input_files("#camera", [photo("taken.jpg")])
    answered(phone, "taken.jpg")
    expect(open_page().get_by_text("Take a photo")).to_be_hidden()


def test_a_phone_is_not_told_to_drop_or_to_press_keys(open_page: OpenPage) -> None:
    phone = open_page(has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844})
    for words in ("drop", "Drop", "Ctrl", "⌘"):
        assert words not in phone.locator("main").inner_text()
    choose(phone, photo())
    answered(phone)
    for words in ("drop", "Drop", "Ctrl", "⌘"):
        assert words not in phone.locator("main").inner_text()
    desk = open_page()
    expect(desk.get_by_text("Drop photos anywhere on this page")).to_be_visible()


def test_photos_are_shown_newest_first_and_sent_two_at_a_time(open_page: OpenPage) -> None:
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


def test_cancelling_one_upload_leaves_the_others_running(open_page: OpenPage) -> None:
    page = open_page()
    held: list[Route] = []
    page.route("**/v1/predict*", lambda route: held.append(route))
    choose(page, *(photo(f"{number}.jpg") for number in range(3)))
    expect(page.locator("[data-state=looking], [data-state=uploading]")).to_have_count(2)
    expect(card(page, "2.jpg")).to_contain_text("Waiting to be sent")
    expect(card(page, "0.jpg").get_by_role("progressbar")).to_have_attribute(
        "aria-label", "Progress of 0.jpg"
    )
    page.get_by_role("button", name="Cancel 0.jpg").click()
    expect(page.locator(".card")).to_have_count(2)
    expect(card(page, "2.jpg")).to_have_attribute("data-state", re.compile("looking|uploading"))
    assert len(held) == 3
    for route in held:  # the route of the cancelled upload raises an error
        with contextlib.suppress(Error):
            route.continue_()
    answered(page, "1.jpg")
    answered(page, "2.jpg")


def test_a_long_file_name_stays_inside_its_card(open_page: OpenPage) -> None:
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


def sent(page: Page, file: FilePayload) -> bytes:
    """Return the body that the page sends for a file (Playwright cannot read a Blob)."""
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


def test_a_long_photo_keeps_a_shorter_side_that_models_can_use(open_page: OpenPage) -> None:
    """A model may cut a square out of the middle."""
    data = encoded(Image.new("RGB", (4000, 1000), "red"), quality=92)
    body = sent(open_page(), {"name": "long.jpg", "mimeType": "image/jpeg", "buffer": data})
    with Image.open(io.BytesIO(body)) as small:
        assert small.size == (1792, 448)


def test_a_rotated_photo_is_sent_upright(open_page: OpenPage) -> None:
    image = Image.new("RGB", (1600, 1200), "red")
    image.paste("blue", (0, 0, 800, 1200))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees: the left side is up
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


def test_a_small_photo_is_sent_unchanged(open_page: OpenPage) -> None:
    small = photo()
    assert sent(open_page(), small) == small["buffer"]
