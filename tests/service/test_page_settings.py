"""The page as a shop's own: its name, logo, colours, language, classes and what it hides."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from support.browser import (  # noqa: F401 (fixtures)
    OpenPage,
    browser,
    open_page,
    refuse,
    violations,
)
from support.browser import server as server  # `open_page` uses it
from support.cli import run
from support.serving import Server, serving
from support.upload_page import SURE, UNSURE, answered, card, change_response, choose, photo
from tailorbird.errors import SettingsError
from tailorbird.service import PageSettings, accent, read_page
from tailorbird.service.web.pages import Pages, Site

SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 90 30">'
    b"<script>document.title = 'taken'</script><rect width='90' height='30' fill='teal'/></svg>"
)
PAGE = """
title = "Kleiderkiste"
language = "de"
logo = "logo.svg"
accent = "#7a1f3d"
links = false

[classes]
cross = "Kreuze & Sterne"
disc = "Scheiben"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "page.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shop(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "logo.svg").write_bytes(SVG)
    with serving(trained, folder, "--page", str(written(folder, PAGE))) as running:
        yield running


def test_a_file_of_settings_is_read(tmp_path: Path) -> None:
    (tmp_path / "logo.svg").write_bytes(SVG)
    page = read_page(written(tmp_path, PAGE))
    assert page == PageSettings(
        title="Kleiderkiste",
        language="de",
        logo=tmp_path / "logo.svg",
        accent="#7a1f3d",
        links=False,
        classes={"cross": "Kreuze & Sterne", "disc": "Scheiben"},
    )
    assert page.logo_content() == (SVG, "image/svg+xml")
    assert read_page(None) == PageSettings()
    assert read_page(written(tmp_path, "")) == PageSettings()


def test_the_documented_settings_are_valid(tmp_path: Path) -> None:
    guide = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
    (text,) = re.findall(r"```toml\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "logo.svg").write_bytes(SVG)
    page = read_page(written(tmp_path, text))
    assert page.language == "de" and page.classes == {"t-shirt": "T-Shirts", "dress": "Kleider"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title = ", "page.toml is no TOML file: Invalid value"),
        ("titel = 'x'", "has the setting 'titel'; the settings are title, language, logo"),
        ("title = ''", "title is ''; it must be a line of 1 to 60 characters"),
        ('title = "a\\u0007b"', "title is "),
        ("title = 7", "title is 7"),
        (f"title = '{'x' * 61}'", "title is "),
        ("language = 'fr'", "language is 'fr'; it must be one of en, de"),
        ("links = 'no'", "links is 'no'; it must be true or false"),
        ("accent = 'red'", "accent is 'red'; write a colour as #rrggbb"),
        ("accent = 7", "accent is 7"),
        ("classes = 'box'", "classes is 'box'; it must be a table of names by class"),
        ("[classes]\nbox = ''", "the name of class 'box' is ''"),
        ("[classes]\nbox = 7", "the name of class 'box' is 7"),
        ("logo = 'no.svg'", "logo .*no.svg cannot be read: No such file"),
        ("logo = ''", "logo is ''; it must be the path of a file"),
        ("logo = 3", "logo is 3; it must be the path of a file"),
        ("logo = 'page.toml'", "logo .*page.toml is .*; it must be SVG, PNG, JPEG, WEBP"),
        ("logo = '.'", "cannot be read"),
    ],
)
def test_invalid_settings_are_refused_with_what_is_valid(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        read_page(written(tmp_path, text))


def test_problems_are_reported_together_with_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "title = ''\nlanguage = 'xx'\naccent = 'blue'")
    with pytest.raises(SettingsError) as refused:
        read_page(path)
    assert str(refused.value).startswith(f"{path}: title is")
    assert "language is 'xx'" in str(refused.value) and "accent is 'blue'" in str(refused.value)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_page(tmp_path / "none.toml")


def test_a_logo_is_judged_by_its_content(tmp_path: Path) -> None:
    for kind, media in (("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 20), "teal").save(buffer, kind)
        (tmp_path / "logo.svg").write_bytes(buffer.getvalue())
        content = PageSettings(logo=tmp_path / "logo.svg").logo_content()
        assert content == (buffer.getvalue(), media)
    (tmp_path / "logo.svg").write_bytes(SVG + b" " * 600_000)
    with pytest.raises(SettingsError, match="has over 512 KiB"):
        PageSettings(logo=tmp_path / "logo.svg")
    (tmp_path / "logo.svg").write_text("<html><script>alert(1)</script></html>")
    with pytest.raises(SettingsError, match="is HTML page; it must be SVG"):
        PageSettings(logo=tmp_path / "logo.svg")


def test_classes_of_the_settings_must_be_the_models(tmp_path: Path, trained: Path) -> None:
    page = written(tmp_path, "[classes]\nhat = 'Hats'")
    for workers in ("1", "2"):
        done = run(
            "serve", trained, "--port", 0, "--page", page, "--workers", workers,
            "--corrections", "off", code=2,
        )  # fmt: skip
        assert (
            "name the classes hat, which the model does not have; its classes are box, cross, disc"
            in done.stderr
        )
    with pytest.raises(SettingsError, match="two classes would have the name 'disc'"):
        PageSettings(classes={"box": "disc"}).check_classes(["box", "disc"])


def test_classes_keep_the_models_order_where_none_is_given() -> None:
    page = PageSettings(classes={"c": "C!"})
    assert page.display(["a", "b", "c"]) == [
        {"label": "c", "name": "C!"},
        {"label": "a", "name": "a"},
        {"label": "b", "name": "b"},
    ]
    assert [each["label"] for each in PageSettings().display(["z", "a"])] == ["z", "a"]


@pytest.mark.parametrize("colour", ["#7a1f3d", "#ffff00", "#000000", "#ffffff", "#808080"])
def test_any_accent_colour_is_readable_in_both_themes(colour: str) -> None:
    parsed = accent.parse(colour)
    assert parsed is not None
    light, dark = re.findall(r":root \{ ([^}]*) \}", accent.styles(parsed))
    for rules, grounds in ((light, ("#f6f4ef", "#fffefb", "#ece9e1")), (dark, ("#121715",))):
        found = {
            name: shown
            for name, text in re.findall(r"--([\w-]+): (#\w{6});", rules)
            if (shown := accent.parse(text))
        }
        assert found.keys() == {"leaf", "leaf-strong", "on-leaf", "leaf-wash"}
        for ground in grounds:
            background = accent.parse(ground)
            assert background is not None
            assert accent.contrast(found["leaf"], background) >= 4.5
        assert accent.contrast(found["leaf"], found["on-leaf"]) >= 4.5
        assert accent.contrast(found["leaf-strong"], found["leaf-wash"]) >= 4.5


def test_contrast_is_that_of_the_standard() -> None:
    assert accent.contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert accent.contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)
    assert accent.styles((122, 31, 61)).startswith(":root { --leaf: #7a1f3d;"), "dark enough as is"


def test_the_logo_is_served_as_a_picture_that_can_run_nothing(shop: Server) -> None:
    answer = httpx.get(f"{shop.address}/static/logo")
    assert answer.content == SVG and answer.headers["content-type"] == "image/svg+xml"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert httpx.get(f"{shop.address}/favicon.ico").content == SVG
    manifest = httpx.get(f"{shop.address}/static/site.webmanifest").json()
    assert (manifest["name"], manifest["lang"]) == ("Kleiderkiste", "de")
    assert manifest["icons"][0]["src"] == "logo"


def test_a_script_in_the_logo_does_not_run(
    open_page: OpenPage, shop: Server, browser: Browser
) -> None:
    page = open_page(at=shop)
    expect(page).to_have_title("Fotos · Kleiderkiste")
    logo = page.locator(".brand img")
    assert logo.evaluate("image => image.naturalWidth") > 0
    other = browser.new_page()
    other.goto(f"{shop.address}/static/logo")
    assert other.title() != "taken"
    other.close()


def test_the_api_has_the_names_in_order_and_the_models_labels(shop: Server) -> None:
    model = shop.get("/v1/model")
    assert model["classes"] == ["box", "cross", "disc"]
    assert model["display"] == [
        {"label": "cross", "name": "Kreuze & Sterne"},
        {"label": "disc", "name": "Scheiben"},
        {"label": "box", "name": "box"},
    ]


def test_sellers_see_the_shops_names_in_german(open_page: OpenPage, shop: Server) -> None:
    page = open_page(at=shop)
    expect(page.locator("html")).to_have_attribute("lang", "de")
    expect(page.get_by_role("heading", level=1)).to_have_text("Was ist auf dem Foto?")
    expect(page.locator("#classes-known")).to_have_text(
        "Unterschieden werden Kreuze & Sterne, Scheiben, box."
    )
    change_response(page, "/v1/predict", {**UNSURE, "label": "cross", "probability": 0.41})
    choose(page, photo())
    shown = answered(page)
    expect(shown.locator(".verdict")).to_have_text("Nicht sicher")
    expect(shown.locator(".sureness")).to_have_text("Vielleicht Kreuze & Sterne (41\u00a0%)")
    expect(page.locator("#news")).to_have_text(
        "box.jpg: nicht sicher, vielleicht Kreuze & Sterne, 41 Prozent"
    )
    expect(shown.locator(".choice .what")).to_have_text(["box", "Scheiben", "Kreuze & Sterne"])
    shown.get_by_role("button", name="Etwas anderes…").click()
    expect(shown.get_by_role("option")).to_have_text(["Kreuze & Sterne", "Scheiben", "box"])
    shown.get_by_role("combobox").fill("stern")
    with page.expect_request("**/v1/corrections") as sent:
        shown.get_by_role("combobox").press("Enter")
    assert json.loads(sent.value.post_data or "")["answer"] == "cross", "the API gets the label"
    expect(shown).to_contain_text("Danke. Notiert als Kreuze & Sterne.")


def test_sellers_see_no_names_of_models_no_links_and_no_token(
    open_page: OpenPage, shop: Server
) -> None:
    page = open_page(at=shop)
    change_response(page, "/v1/predict", SURE)
    choose(page, photo())
    answered(page)
    text = page.locator("body").inner_text()
    assert "shapes" not in text and "tailorbird" not in text.lower()
    assert page.locator("a").evaluate_all("all => all.map(each => each.getAttribute('href'))") == [
        "#main",
        "./",
    ]
    # A message of the server could name the model; this page has its own for each refusal.
    refuse(page, "/v1/predict", 422, "invalid", "the model shapes has no heat maps")
    choose(page, photo("second.jpg"))
    refused = card(page, "second.jpg")
    expect(refused).to_contain_text("Der Server konnte damit nichts anfangen.")
    assert "shapes" not in refused.inner_text()
    refuse(page, "/v1/predict", 401, "unauthorized", "send the service's token")
    choose(page, photo("third.jpg"))
    expect(card(page, "third.jpg")).to_contain_text("Sie sind nicht angemeldet.")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_dashboard_speaks_the_language_and_names_classes(
    open_page: OpenPage, shop: Server
) -> None:
    stats = {
        "total": 1200, "right": 900, "accuracy": 0.75, "interval": [0.72, 0.78],
        "per_class": [{"label": "cross", "total": 1200, "right": 900}],
        "by_day": [{"day": "2026-05-01", "total": 1200, "right": 900}],
        "mistaken": [{"predicted": "cross", "answer": "disc", "count": 300}],
    }  # fmt: skip

    def answer(page: Page) -> None:
        page.route("**/v1/corrections/stats", lambda route: route.fulfill(json=stats))

    page = open_page("/dashboard", at=shop, before=answer)
    expect(page.locator(".accuracy")).to_contain_text("richtig bei 900 von 1.200 Antworten")
    expect(page.locator(".mistakes li")).to_have_text(
        ["vorgeschlagen Kreuze & Sterne, war Scheiben300×"]
    )
    expect(page.locator(".classes .what")).to_have_text(["Kreuze & Sterne"])


def test_the_dashboard_of_a_page_for_sellers_still_asks_its_operators_for_the_token(
    open_page: OpenPage, trained: Path, tmp_path: Path
) -> None:
    page_file = written(tmp_path, "links = false")
    with serving(trained, tmp_path, "--page", str(page_file), token="correct horse") as shop:
        page = open_page("/dashboard", at=shop)
        page.get_by_label("Token", exact=True).fill("correct horse")
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_role("heading", name="No answers yet")).to_be_visible()
        sellers = open_page(at=shop)
        expect(sellers.get_by_role("alert").first).to_contain_text("You are not signed in.")
        expect(sellers.get_by_role("dialog")).to_have_count(0)


def test_a_title_is_text_wherever_it_stands() -> None:
    title = "</title><script>alert('1')</script> & \"Co\" {{ 7 * 7 }}"
    pages = Pages("tailorbird.service", Site(title=title))
    for name in ("index.html", "dashboard.html", "docs.html"):
        html = pages.content(name).decode()
        assert "<script>alert" not in html and "&lt;script&gt;" in html and "{{ 7 * 7 }}" in html
    assert json.loads(pages.content("site.webmanifest"))["name"] == title


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violations_with_an_accent_colour(
    open_page: OpenPage, shop: Server, scheme: str
) -> None:
    page = open_page(at=shop, color_scheme=scheme, reduced_motion="reduce")
    change_response(page, "/v1/predict", SURE)
    choose(page, photo("sure.jpg"))
    answered(page, "sure.jpg").get_by_role("radio").nth(1).check()
    assert violations(page) == []
