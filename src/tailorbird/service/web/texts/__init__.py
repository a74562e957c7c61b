"""Texts of the pages, one JSON file for each language, all with the same keys."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

LANGUAGES = ("en", "de")
"""The languages of the pages, by their codes in HTML's `lang`."""


def texts(language: str) -> dict[str, Any]:
    """Return the texts of one of LANGUAGES: nested objects by subject, strings at the ends."""
    content: dict[str, Any] = json.loads(
        (files("tailorbird.service.web.texts") / f"{language}.json").read_text(encoding="utf-8")
    )
    return content
