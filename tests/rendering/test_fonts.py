"""Text of any script in pictures: a font that has it, or a warning that says what to do."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw

from tailorbird.errors import SettingsError
from tailorbird.rendering import fonts
from tailorbird.rendering.contact_sheets import Tile, contact_sheet


@pytest.fixture(autouse=True)
def fresh_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No font of this machine, and nothing remembered from another test."""

    def forget() -> None:
        for cached in (fonts._font_with, fonts._warn):
            cached.cache_clear()

    forget()
    monkeypatch.delenv(fonts.VARIABLE, raising=False)
    monkeypatch.setattr(fonts, "_system_fonts", lambda: ())
    yield
    forget()


def outline(points: tuple[tuple[int, int], ...]) -> object:
    pen = TTGlyphPen(None)
    pen.moveTo(points[0])
    for point in points[1:]:
        pen.lineTo(point)
    pen.closePath()
    return pen.glyph()


def draw_font(path: Path, signs: str) -> Path:
    """A font that draws a triangle for each of `signs` and a box for everything else."""
    names = [f"sign{ord(sign):x}" for sign in signs]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", *names])
    builder.setupCharacterMap(dict(zip(map(ord, signs), names, strict=True)))
    box = outline(((0, 0), (0, 900), (900, 900), (900, 0)))
    triangle = outline(((0, 0), (450, 900), (900, 0)))
    builder.setupGlyf({".notdef": box, **dict.fromkeys(names, triangle)})
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", *names), (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": f"Drawn {path.stem}", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900)
    builder.setupPost()
    builder.save(path)
    return path


def pixels_of(text: str) -> np.ndarray:
    image = Image.new("RGB", (400, 40), "white")
    fonts.draw(ImageDraw.Draw(image), (2, 2), text, 20, (0, 0, 0))
    return np.asarray(image)


def test_european_and_semitic_scripts_need_no_font_of_the_system() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in ("Jäckchen für Größe", "éñçøłžğ", "футболка", "Ωμέγα", "قميص", "חולצה"):
            assert fonts.length(text, 18) > 20 and pixels_of(text).min() < 100


def test_what_no_font_has_is_drawn_as_a_code_and_reported_once() -> None:
    with pytest.warns(
        fonts.MissingGlyphs, match=r"no font .* has 日 本: .*TAILORBIRD_FONT"
    ) as said:
        drawn = pixels_of("日本 a日")
    assert len(said) == 1
    assert np.array_equal(drawn, pixels_of("U+65E5U+672C aU+65E5"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels_of("日本 a日")


def test_the_font_of_the_user_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fonts.VARIABLE, str(draw_font(tmp_path / "own.ttf", "日本")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fonts.length("日本", 20) == pytest.approx(40, abs=1)
        assert fonts.length("日本 shirt", 20) > 80, "DejaVu draws the rest"


def test_a_font_of_the_system_fills_the_gaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = (str(tmp_path / "gone.ttf"), str(draw_font(tmp_path / "system.ttf", "日")))
    monkeypatch.setattr(fonts, "_system_fonts", lambda: found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs = fonts._runs("shirt 日 x", 18)
    assert [text for text, _ in runs] == ["shirt ", "日 ", "x"]
    assert runs[0][1].getname()[0] == "DejaVu Sans" and runs[1][1].getname()[0] == "Drawn system"


def test_marks_stay_with_their_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shaping needs the whole cluster in one font: Devanagari vowels, accents, joiners."""
    font = draw_font(tmp_path / "deva.ttf", "कम")
    monkeypatch.setattr(fonts, "_system_fonts", lambda: (str(font),))
    assert [text for text, _ in fonts._runs("कमीक", 18)] == ["कमीक"]


def test_a_file_that_is_no_font_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "font.ttf").write_bytes(b"words")
    monkeypatch.setenv(fonts.VARIABLE, str(tmp_path / "font.ttf"))
    with pytest.raises(SettingsError, match=r"TAILORBIRD_FONT is .* must be the path of a TTF"):
        fonts.length("a", 18)


@pytest.mark.parametrize("keep_end", [False, True])
def test_long_lines_are_cut_to_their_width(keep_end: bool) -> None:
    text = "start " + "x" * 300 + "  12.3%"
    cut = fonts.fit(text, 18, 200, keep_end=keep_end)
    assert 150 < fonts.length(cut, 18) <= 200 and cut.startswith("start") and "…" in cut
    assert cut.endswith("12.3%") is keep_end
    assert fonts.fit("short", 18, 200) == "short"
    assert fonts.fit("a\nb\0c\udcff  d", 18, 200) == "a b c d"


def test_contact_sheets_show_names_in_any_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.jpg")
    tiles = [Tile(tmp_path / "a.jpg", ("シャツ",)), Tile(tmp_path / "gone.jpg", ("x",))]
    with pytest.warns(fonts.MissingGlyphs, match="シ ャ ツ"):
        coded = contact_sheet(tiles)
    fonts._font_with.cache_clear()
    monkeypatch.setenv(fonts.VARIABLE, str(draw_font(tmp_path / "own.ttf", "シャツ")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = contact_sheet(tiles)
    assert drawn.size == coded.size and drawn.tobytes() != coded.tobytes()


def test_matplotlib_figures_use_the_same_fonts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    def drawn() -> None:
        figure = Figure()
        figure.subplots().set_title("シャツ shirt")
        fonts.use_in_figure(figure)
        figure.savefig(io.BytesIO(), format="png")

    with pytest.warns(fonts.MissingGlyphs), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        drawn()
    fonts._font_with.cache_clear()
    monkeypatch.setenv(fonts.VARIABLE, str(draw_font(tmp_path / "plot.ttf", "シャツ")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn()


def test_the_systems_fonts_are_searched_only_for_what_dejavu_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched: list[str] = []

    def search() -> tuple[str, ...]:
        searched.append("searched")
        return ()

    monkeypatch.setattr(fonts, "_system_fonts", search)
    line = fonts.fit("Größe, Δ и … שלום", 14, 60)
    assert line.endswith(fonts.ELLIPSIS)
    assert fonts.length(line, 14) <= 60 and not searched
    with pytest.warns(fonts.MissingGlyphs, match="U\\+65E5"):
        fonts.length("日", 14)
    assert searched
