"""The threshold above which a photo is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tailorbird.metrics.refusals import choose_refusal, fewest_photos


@pytest.mark.parametrize("wanted", [0.01, 0.02, 0.05, 0.2])
@pytest.mark.parametrize("count", [100, 341, 1000])
def test_at_most_the_wanted_share_of_new_photos_is_refused(wanted: float, count: int) -> None:
    random = np.random.default_rng(0)
    shares, expected = [], 0.0
    for _ in range(300):
        found = choose_refusal(random.normal(size=count), wanted)
        shares.append((random.normal(size=400) > found.threshold).mean())
        expected = found.expected
    assert found.reached and found.refused <= expected <= wanted
    assert np.mean(shares) == pytest.approx(expected, abs=1 / count + 0.004)


def test_too_few_photos_are_said() -> None:
    found = choose_refusal(np.arange(20.0), 0.02)
    assert not found.reached and found.refused == 0 and found.threshold >= 19
    assert found.expected == pytest.approx(1 / 21)
    assert "20 validation photos are too few to refuse only 2%" in found.sentence()
    assert "about 4.8% may be; 49 are enough" in found.sentence()
    enough = choose_refusal(np.arange(49.0), 0.02)
    assert enough.reached and "to 2% of the photos of the classes." in enough.sentence()


@pytest.mark.parametrize(
    ("wanted", "photos"), [(0.02, 49), (0.05, 19), (0.01, 99), (0.5, 1), (0.001, 999)]
)
def test_fewest_photos_are_the_fewest(wanted: float, photos: int) -> None:
    assert fewest_photos(wanted) == photos
    assert choose_refusal(np.arange(float(photos)), wanted).reached
    if photos > 1:
        assert not choose_refusal(np.arange(photos - 1.0), wanted).reached


def test_one_photo_and_equal_photos_give_a_finite_threshold() -> None:
    for scores in (np.zeros(1), np.zeros(200)):
        found = choose_refusal(scores, 0.02)
        assert np.isfinite(found.threshold) and found.refused == 0
