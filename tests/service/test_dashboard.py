"""The dashboard and the API page in a real browser, against a real server."""

from __future__ import annotations

import json
import re
import shlex
import urllib.request
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from playwright.sync_api import Page, Route, expect

from support.browser import (  # noqa: F401 (fixtures)
    OpenPage,
    browser,
    open_page,
    refuse,
    server,
    violations,
)
from support.data import encoded, picture
from support.serving import Server

NOTHING: dict[str, Any] = {
    "total": 0,
    "right": 0,
    "accuracy": None,
    "interval": None,
    "per_class": [],
    "by_day": [],
    "mistaken": [],
    "candidate": None,
}
STATS: dict[str, Any] = {
    "total": 120,
    "right": 97,
    "accuracy": 0.808,
    "interval": [0.729, 0.869],
    "per_class": [
        {"label": "hat", "total": 12, "right": 11},
        {"label": "<b>shirt</b>", "total": 108, "right": 86},
    ],
    "by_day": [
        {"day": "2026-04-28", "total": 40, "right": 30},
        {"day": "2026-05-01", "total": 80, "right": 67},
    ],
    "mistaken": [
        {"predicted": "shirt", "answer": "t-shirt", "count": 15},
        {"predicted": "hat", "answer": "shirt", "count": 8},
    ],
    "candidate": None,
}
TRIAL: dict[str, Any] = {
    "name": "<i>next</i>",
    "sha256": "0" * 64,
    "state": "running",
    "message": None,
    "photos": 1200,
    "agree": 1110,
    "answered": 120,
    "both": 90,
    "only_served": 7,
    "only_candidate": 19,
    "neither": 4,
    "difference": 0.1,
    "interval": [0.02, 0.18],
    "p_value": 0.029,
    "better": "candidate",
}


def post(server: Server, path: str, body: bytes, kind: str) -> Any:
    request = urllib.request.Request(
        server.address + path, data=body, headers={"Content-Type": kind}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def answer_about(server: Server, label: str, seed: int, answer: str) -> None:
    """Predict a drawn photo and say what it is."""
    result = post(server, "/v1/predict", encoded(picture(label, seed)), "image/jpeg")["results"][0]
    post(
        server,
        "/v1/corrections",
        json.dumps({"receipt": result["receipt"], "answer": answer}).encode(),
        "application/json",
    )


def with_stats(open_page: OpenPage, said: dict[str, Any], **options: Any) -> Page:
    def answer(page: Page) -> None:
        page.route("**/v1/corrections/stats", lambda route: route.fulfill(json=said))

    return open_page("/dashboard", before=answer, **options)


def test_none_of_these_is_counted_apart(open_page: OpenPage) -> None:
    page = with_stats(open_page, {**STATS, "none_of_these": 4})
    expect(page.locator(".panel").nth(1)).to_contain_text("19 answers named another class")
    expect(page.locator(".panel").nth(1)).to_contain_text(
        "4 answers: the photo shows none of the classes"
    )
    only = {**STATS, "right": 116, "none_of_these": 4, "mistaken": []}
    page = with_stats(open_page, only)
    expect(page.locator(".panel").nth(1)).to_contain_text("4 answers: the photo shows none")


def test_real_answers_are_counted(open_page: OpenPage, server: Server) -> None:
    answer_about(server, "box", 950, "box")
    answer_about(server, "disc", 951, "cross")
    said = server.get("/v1/corrections/stats")
    assert said["total"] >= 2
    page = open_page("/dashboard")
    expect(page.locator(".accuracy")).to_contain_text(
        f"right in {said['right']} of {said['total']} answers"
    )
    expect(page.locator(".big")).to_have_text(re.compile(r"^\d+% to \d+%$"))
    low, high = (round(each * 100) for each in said["interval"])
    expect(page.locator(".range")).to_contain_text(f"95% interval: {low}% to {high}%")
    expect(page.locator(".classes li")).to_have_count(len(said["per_class"]))
    expect(page.locator(".mistakes li").first).to_contain_text(
        f"was {said['mistaken'][0]['answer']}"
    )
    expect(page.locator("#facts")).to_contain_text("3 classes")


def test_enough_answers_are_one_figure(open_page: OpenPage) -> None:
    page = with_stats(open_page, {**STATS, "interval": [0.77, 0.84]})
    expect(page.locator(".big")).to_have_text("81%")
    expect(page.locator(".accuracy")).not_to_contain_text("too few")


def test_a_candidate_is_compared_with_the_model(open_page: OpenPage) -> None:
    page = with_stats(open_page, {**STATS, "candidate": TRIAL})
    panel = page.locator(".candidate")
    expect(panel.get_by_role("heading")).to_have_text("Candidate: <i>next</i>")
    expect(panel).to_contain_text("Same answer as the model on 93% of 1,200 photos")
    expect(panel.locator("td")).to_have_text(["90", "19", "7", "4"])
    expect(panel).to_contain_text("The candidate is right more often (p = 0.029).")
    expect(panel).to_contain_text("which favours the candidate")
    assert violations(page) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"better": None, "p_value": 0.5}, "No difference can be shown (p = 0.5)."),
        ({"better": "served", "p_value": 0.001}, "The model is right more often (p = 0.001)."),
        ({"answered": 0}, "Nobody has answered about one of these photos yet."),
        ({"photos": 0, "answered": 0, "state": "starting"}, "It is starting.No photo yet."),
        ({"state": "failed", "message": "no such file"}, "It does not run.no such file"),
        ({"state": "same"}, "It is the model that answers."),
    ],
)
def test_what_is_said_of_a_candidate(
    open_page: OpenPage, changed: dict[str, Any], said: str
) -> None:
    page = with_stats(open_page, {**NOTHING, "candidate": {**TRIAL, **changed}})
    expect(page.locator(".candidate")).to_contain_text(said)


def test_figures_are_shown_as_text_bars_and_a_chart(open_page: OpenPage) -> None:
    page = with_stats(open_page, STATS)
    expect(page.locator(".big")).to_have_text("73% to 87%")
    expect(page.locator(".accuracy")).to_contain_text("There are too few answers to say more.")
    expect(page.locator(".accuracy")).to_contain_text(
        "Only photos that someone answered about are counted;"
    )
    expect(page.locator(".mistakes li")).to_have_text(
        ["predicted shirt, was t-shirt15×", "predicted hat, was shirt8×"]
    )
    expect(page.locator(".classes .what")).to_have_text(["<b>shirt</b>", "hat"])
    expect(page.locator(".classes .share").last).to_have_text("92% · 11 of 12")
    widths = page.locator(".classes .fill").evaluate_all(
        "bars => bars.map(bar => bar.style.inlineSize)"
    )
    assert [round(float(width.rstrip("%")), 1) for width in widths] == [79.6, 91.7]
    days = page.locator(".chart g")
    expect(days).to_have_count(4)  # two of them without answers
    right, all_of_it = (
        sum(float(bar.get_attribute("height") or 0) for bar in days.last.locator(kind).all())
        for kind in (".good", "rect")
    )
    assert right / all_of_it == pytest.approx(67 / 80, abs=0.01)
    page.get_by_text("As a table").click()
    expect(page.get_by_role("row", name="2026-05-01 67 80 84%")).to_be_visible()


def test_without_answers_it_says_how_they_come(open_page: OpenPage) -> None:
    page = with_stats(open_page, NOTHING)
    expect(page.get_by_role("heading", name="No answers yet")).to_be_visible()
    expect(page.locator("main").get_by_role("link", name="Add a photo")).to_be_visible()


def test_it_refreshes_itself_and_keeps_old_figures_when_that_fails(open_page: OpenPage) -> None:
    said = dict(STATS)

    def before(page: Page) -> None:
        page.clock.install()
        page.route("**/v1/corrections/stats", lambda route: route.fulfill(json=said))

    page = open_page("/dashboard", before=before)
    expect(page.locator(".accuracy")).to_contain_text("97 of 120")
    said |= {"total": 121, "right": 98}
    page.clock.run_for(29_000)
    expect(page.locator(".accuracy")).to_contain_text("97 of 120")
    page.clock.run_for(2_000)
    expect(page.locator(".accuracy")).to_contain_text("98 of 121")
    page.unroute("**/v1/corrections/stats")
    refuse(page, "/v1/corrections/stats", 503, "storage-failed", "the database is away")
    page.get_by_role("button", name="Refresh").click()
    expect(page.get_by_role("alert")).to_contain_text("The database is away.")
    expect(page.locator("#updated")).to_have_text("These figures are older")
    expect(page.locator(".accuracy")).to_contain_text("98 of 121")


def test_corrections_that_are_off_are_explained(open_page: OpenPage) -> None:
    def off(page: Page) -> None:
        refuse(page, "/v1/corrections/stats", 404, "not-found", "corrections are off")

    page = open_page("/dashboard", before=off)
    expect(page.get_by_role("alert")).to_contain_text(
        "Once whoever runs this server turns corrections on"
    )


def test_the_dashboard_asks_for_the_token(open_page: OpenPage) -> None:
    def guarded(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer open sesame":
            route.fulfill(json=STATS)
        else:
            route.fulfill(
                status=401,
                json={
                    "error": {"status": 401, "code": "unauthorized", "message": "a token is needed"}
                },
            )

    page = open_page(
        "/dashboard", before=lambda page: page.route("**/v1/corrections/stats", guarded)
    )
    page.get_by_label("Token", exact=True).fill("open sesame")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator(".big")).to_have_text("73% to 87%")
    expect(page.locator(".accuracy")).to_contain_text("There are too few answers to say more.")


def test_every_operation_is_described(open_page: OpenPage, server: Server) -> None:
    page = open_page("/docs")
    document = server.get("/openapi.json")
    expected = [
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if method in ("get", "post")
    ]
    expect(page.locator(".operation")).to_have_count(len(expected))
    shown = page.locator(".operation h3").evaluate_all(
        "all => all.map(each => [...each.children].map(part => part.textContent))"
    )
    assert sorted(map(tuple, shown)) == sorted(expected)
    links = page.locator("#contents a").evaluate_all("all => all.map(each => each.hash.slice(1))")
    assert sorted(links) == sorted(
        page.locator(".operation").evaluate_all("all => all.map(each => each.id)")
    )
    predict = page.locator("#post-v1-predict")
    for name in ("top", "heatmap"):
        expect(predict.locator(".fields .name").get_by_text(name, exact=True).first).to_be_visible()
    for status in document["paths"]["/v1/predict"]["post"]["responses"]:
        expect(predict.locator(".status").get_by_text(status, exact=True)).to_be_visible()
    page.locator("#contents a", has_text="/v1/corrections/stats").click()
    expect(page.locator("#get-v1-corrections-stats")).to_be_in_viewport()


def test_the_examples_are_commands_that_reach_this_server(
    open_page: OpenPage, server: Server
) -> None:
    page = open_page("/docs")
    expect(page.locator(".operation")).not_to_have_count(0)
    for text in page.locator(".command pre code").all_text_contents():
        words = shlex.split(text.replace("\\\n", " "))
        assert words[0] == "curl" and any(
            word.startswith(server.address + "/") for word in words
        ), text
    example = shlex.split(
        page.locator("#post-v1-predict .command code").inner_text().replace("\\\n", " ")
    )
    address = next(word for word in example if word.startswith("http"))
    assert example[-2:] == ["--data-binary", "@photo.jpg"]
    kind = example[example.index("-H") + 1].removeprefix("Content-Type: ")
    said = post(server, address.removeprefix(server.address), encoded(picture("box", 960)), kind)
    assert len(said["results"][0]["top"]) == 3
    correction = shlex.split(
        page.locator("#post-v1-corrections .command code").inner_text().replace("\\\n", " ")
    )
    assert set(json.loads(correction[-1])) == {"receipt", "answer"}


def test_three_calls_come_first_and_tensors_are_folded(open_page: OpenPage) -> None:
    page = open_page("/docs")
    expect(page.locator("#about")).to_contain_text(
        "Most programs need three calls: POST /v1/predict"
    )
    expect(page.locator(".operation h3 code").first).to_have_text("/v1/predict")
    infer = page.locator("#post-v2-models-name-infer")
    expect(infer).to_be_hidden()
    page.goto(f"{page.url}#post-v2-models-name-infer")
    expect(infer).to_be_visible()
    page.reload()
    expect(infer).to_be_in_viewport()
    page.locator("details.group > summary").click()
    expect(infer).to_be_hidden()


def keys(value: Any) -> Any:
    """Return the structure of JSON: keys, and that of a list's first entry."""
    if isinstance(value, dict):
        return {name: keys(each) for name, each in value.items()}
    return [keys(value[0])] if isinstance(value, list) and value else type(value) is list


def test_example_answers_are_shown_and_have_the_fields_of_real_ones(
    open_page: OpenPage, server: Server
) -> None:
    document = server.get("/openapi.json")
    examples = {
        path: answer["content"]["application/json"]["example"]
        for path, item in document["paths"].items()
        for operation in item.values()
        for answer in operation["responses"].values()
        if "example" in answer.get("content", {}).get("application/json", {})
    }
    page = open_page("/docs")
    for path, method in (
        ("/v1/predict", "post"),
        ("/v1/corrections", "post"),
        ("/v1/model", "get"),
    ):
        shown = page.locator(f"#{method}{path.replace('/', '-')} pre.json")
        assert json.loads(shown.inner_text()) == examples[path]
    answer_about(server, "box", 961, "disc")
    real = post(server, "/v1/predict", encoded(picture("box", 962)), "image/jpeg")
    assert keys(real) == keys(examples["/v1/predict"])
    said = {"receipt": real["results"][0]["receipt"], "answer": "box"}
    stored = post(server, "/v1/corrections", json.dumps(said).encode(), "application/json")
    assert keys(stored) == keys(examples["/v1/corrections"])
    stats = server.get("/v1/corrections/stats")
    assert keys(stats) == keys(examples["/v1/corrections/stats"])
    model, example = server.get("/v1/model"), examples["/v1/model"]
    assert example.keys() <= model.keys()
    for name in ("classes", "display", "limits", "accepts"):
        assert keys(example[name]) == keys(model[name])


def test_example_answers_fit_their_schemas(server: Server) -> None:
    document = server.get("/openapi.json")
    checked = 0
    for item in document["paths"].values():
        for operation in item.values():
            for answer in operation["responses"].values():
                media = answer.get("content", {}).get("application/json", {})
                if "example" in media:
                    schema = {**media["schema"], "components": document["components"]}
                    Draft202012Validator(schema).validate(media["example"])
                    checked += 1
    assert checked == 5


def test_schemas_that_contain_themselves_end(open_page: OpenPage) -> None:
    node = {
        "type": "object",
        "properties": {
            "<i>child</i>": {"$ref": "#/components/schemas/Node"},
            "list": {"type": "array", "items": {"$ref": "#/components/schemas/Node"}},
        },
    }
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Node"}}}
    operation = {
        "requestBody": {"content": content},
        "responses": {"200": {"description": "`fine`", "content": content}},
    }
    document = {
        "openapi": "3.1.0",
        "info": {"title": "t", "version": "1"},
        "paths": {"/x": {"post": operation}},
        "components": {"schemas": {"Node": node}},
    }
    page = open_page(
        "/docs",
        before=lambda page: page.route(
            "**/openapi.json", lambda route: route.fulfill(json=document)
        ),
    )
    expect(page.locator("#post-x .name").first).to_have_text("<i>child</i>")
    expect(page.locator("#post-x summary code")).to_have_text("fine")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_dashboard_and_api_page(open_page: OpenPage, scheme: str) -> None:
    page = with_stats(open_page, STATS, color_scheme=scheme)
    page.get_by_text("As a table").click()
    assert violations(page) == []
    page = with_stats(open_page, NOTHING, color_scheme=scheme)
    expect(page.get_by_role("heading", name="No answers yet")).to_be_visible()
    assert violations(page) == []
    page = open_page("/docs", color_scheme=scheme)
    expect(page.locator(".operation")).not_to_have_count(0)
    assert violations(page) == []


@pytest.mark.parametrize("width", [320, 640])
def test_narrow_screens_need_no_sideways_scrolling(open_page: OpenPage, width: int) -> None:
    view = {"width": width, "height": 700}
    page = with_stats(open_page, STATS, viewport=view)
    expect(page.locator(".chart g")).not_to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page = open_page("/docs", viewport=view)
    expect(page.locator(".operation")).not_to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("mobile", [True, False])
def test_the_chart_narrows_when_a_phone_is_turned(open_page: OpenPage, mobile: bool) -> None:
    days = [{"day": f"2026-04-{day:02}", "total": 40, "right": 30} for day in range(1, 29)]
    page = with_stats(
        open_page,
        STATS | {"by_day": days},
        viewport={"width": 844, "height": 390},
        has_touch=mobile,
        is_mobile=mobile,
    )
    chart = page.locator(".chart svg")
    wide = float(chart.get_attribute("width") or 0)
    page.set_viewport_size({"width": 390, "height": 844})
    expect(chart).not_to_have_attribute("width", f"{wide:.0f}")
    assert float(chart.get_attribute("width") or 0) < 390
    assert page.evaluate("document.documentElement.scrollWidth") == 390
