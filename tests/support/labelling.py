"""For the tests of labelling: a drawn folder without labels, and a person who knows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.data import encoded, picture
from support.reviewing import Page, served
from tailorbird.labelling import (
    Answer,
    Given,
    Labelling,
    LabelSettings,
    Screen,
    open_labelling,
)
from tailorbird.service.labelling.app import LabelService

SHAPES = ("disc", "box", "cross")


def draw_roll(folder: Path, per_class: int = 30) -> Path:
    """A flat folder of drawn photos; the names say what they show."""
    folder.mkdir(parents=True)
    for label in SHAPES:
        for number in range(per_class):
            image = picture(label, number)
            (folder / f"{label}-{number:03}.jpg").write_bytes(encoded(image))
    return folder


@pytest.fixture(scope="module")
def drawn_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of a module: `draw_roll` draws the same photos each time."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def roll(drawn_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A flat folder of drawn photos, whose features are computed once for a module."""
    monkeypatch.setenv("TAILORBIRD_CACHE", str(drawn_cache))
    return draw_roll(tmp_path / "roll")


def true(name: str) -> str:
    """What a drawn photo shows."""
    return name.rpartition("/")[2].partition("-")[0]


@contextmanager
def labelling(
    photos: Path, manifest: Path | None = None, classes: tuple[str, ...] = SHAPES
) -> Iterator[Labelling]:
    """A labelling of which all photos are read."""
    settings = LabelSettings(classes=classes, backbone="pocket")
    with open_labelling(photos, manifest, settings) as opened:
        opened.start()
        assert opened.gallery.wait(600)
        yield opened


def truth(opened: Labelling, screen: Screen) -> list[Given]:
    """The true answers of a screen."""
    names = opened.gallery.names
    return [
        Given(asked.photo, Answer("label", true(names[asked.photo])), asked.now)
        for asked in screen.photos
    ]


def next_of(opened: Labelling, window: str = "one", only: str = "") -> Screen:
    """The next screen, once there is one."""
    while True:
        screen = opened.next_screen(window, only)
        if screen.kind != "wait":
            return screen


def label_until(opened: Labelling, labels: int) -> None:
    """Answer truthfully until there are so many answers, or every photo has one."""
    while len(opened.history.answers.by_name) < labels:
        screen = next_of(opened)
        if screen.kind == "done":
            return
        opened.answer(truth(opened, screen))


@contextmanager
def label_page(opened: Labelling) -> Iterator[Page]:
    """The page of a labelling, from a thread of this process."""
    with served(lambda settings, port: LabelService(opened, settings, port)) as page:
        yield page
