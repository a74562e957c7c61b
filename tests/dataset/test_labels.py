"""Labels that people type: what is taken, as which label, and what is refused."""

from __future__ import annotations

import pytest

from tailorbird.dataset.labels import typed_label
from tailorbird.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("  Silk   scarf\n", "Silk scarf"),
        ("T-SHIRT", "t-shirt"),
        ("t\u200b-shirt", "t-shirt"),
        ("e\u0301charpe", "\u00e9charpe"),
        ("shoes/boots", "shoes/boots"),
        ("=1+1", "=1+1"),
        ("x" * 100, "x" * 100),
    ],
)
def test_a_typed_label_is_a_label_like_any_other(text: str, label: str) -> None:
    assert typed_label(text, ["t-shirt", "hat"]) == label


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has 0 characters"),
        (" \u3000 ", "has 0 characters"),
        ("x" * 101, "has 101 characters; a new one must have 1 to 100"),
        ("a\tb", r"'a\\u0009b' holds a character that cannot be seen"),
        ("sc\u202earf", r"'sc\\u202earf' holds"),
        ("\ud800", "cannot be seen"),
        ("...", "without a letter or a digit"),
        ("../../etc", "without a letter or a digit"),
        ("shoes//boots", "without a letter or a digit"),
    ],
)
def test_a_text_that_can_be_no_label_is_refused(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        typed_label(text, ["t-shirt", "hat"])
