from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.report.drawing import BLUE, INK, WIDTH, Axes, number, padded, percent, svg, ticks


@pytest.mark.parametrize(
    ("limits", "most", "expected"),
    [
        ((0, 1), 6, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ((0.23, 1.81), 6, ["0.5", "1", "1.5"]),
        ((0.342, 0.561), 5, ["0.35", "0.4", "0.45", "0.5", "0.55"]),
        ((-0.5, 2), 6, ["-0.5", "0", "0.5", "1", "1.5", "2"]),
        ((12_000, 57_000), 6, ["20000", "30000", "40000", "50000"]),
    ],
)
def test_ticks_are_round_numbers(
    limits: tuple[float, float], most: int, expected: list[str]
) -> None:
    assert [number(value) for value in ticks(limits, most)] == expected


def test_ticks_of_epochs_are_whole_numbers() -> None:
    assert ticks((0.5, 3.5), whole=True) == [1, 2, 3]
    assert ticks((0.5, 1.5), whole=True) == [1]
    assert ticks((0.5, 300.5), whole=True) == [50, 100, 150, 200, 250, 300]


@given(
    st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=20),
    st.integers(2, 8),
)
def test_a_range_holds_its_values_and_its_ticks(values: list[float], most: int) -> None:
    low, high = padded(values)
    assert low < min(values) and max(values) < high
    found = ticks((low, high), most)
    slack = 1e-6 * (high - low)
    assert 1 <= len(found) <= most + 1
    assert all(low - slack <= tick <= high + slack for tick in found)


def test_shares_are_labelled_in_percent() -> None:
    assert [percent(share) for share in (0, 0.07, 0.125, 1)] == ["0%", "7%", "12.5%", "100%"]


def test_a_value_is_drawn_at_its_place_and_text_is_escaped() -> None:
    axes = Axes(200, (0, 10), (0, 1), left=50, right=50, top=20, bottom=30)
    axes.line([0, 10], [0, 1], BLUE)
    axes.dot(5, 0.5, BLUE)
    axes.text((axes.x(5), axes.y(1)), "a < b", INK)
    root = ET.fromstring(svg('Title with "quotes" & more', 200, axes))
    line, dot, text = root
    assert root.get("aria-label") == 'Title with "quotes" & more' and root.get("role") == "img"
    assert line.get("points") == f"50.00,170.00 {WIDTH - 50:.2f},20.00"
    assert math.isclose(float(dot.get("cx", "")), WIDTH / 2, abs_tol=0.01)
    assert dot.get("cy") == "95.00" and text.text == "a < b" and text.get("y") == "20.00"
