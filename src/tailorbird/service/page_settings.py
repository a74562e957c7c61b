"""How the pages of `serve` present themselves: a TOML file with a shop's name, colours and words.

title = "Kleiderkiste"
language = "de"          # en or de
logo = "logo.svg"        # beside this file
accent = "#7a1f3d"
links = false

[classes]                # the order of the classes, and their names for people
t-shirt = "T-Shirts"
dress = "Kleider"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tailorbird.errors import SettingsError
from tailorbird.images.formats import HEAD, identify
from tailorbird.service import accent
from tailorbird.service.web.texts import LANGUAGES
from tailorbird.validation import Problems

LOGOS = {"SVG": "image/svg+xml", "PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
"""Media types of logos by the format of their content."""

MOST_LOGO = 512 * 1024
"""Largest logo in bytes; every visitor loads it."""

LONGEST_TITLE = 60
LONGEST_NAME = 100
"""Characters."""


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """How the pages present themselves; the defaults are tailorbird's own.

    title: name of the site, 1 to LONGEST_TITLE characters.
    language: one of `LANGUAGES`.
    logo: file of a picture: SVG, PNG, JPEG or WebP, at most MOST_LOGO bytes.
    accent: colour of buttons and links, `#rrggbb`.
    links: whether the page links to the dashboard and the API, and names the model; without them
        it also shows no message of the server and never asks for a token.
    classes: names for people by the model's class; classes are listed in this order, others after
        them.
    """

    title: str = "tailorbird"
    language: str = "en"
    logo: Path | None = None
    accent: str | None = None
    links: bool = True
    classes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with Problems() as problems:
            problems.need(
                _is_line(self.title, LONGEST_TITLE),
                f"title is {self.title!r}; it must be a line of 1 to {LONGEST_TITLE} characters",
            )
            problems.need(
                self.language in LANGUAGES,
                f"language is {self.language!r}; it must be one of {', '.join(LANGUAGES)}",
            )
            problems.need(
                isinstance(self.links, bool), f"links is {self.links!r}; it must be true or false"
            )
            given = self.accent
            problems.need(
                given is None or (isinstance(given, str) and accent.parse(given) is not None),
                f"accent is {given!r}; write a colour as #rrggbb, such as #7a1f3d",
            )
            for problem in _problems_of_names(self.classes):
                problems.add(problem)
            problems.attempt(self.logo_content)

    def logo_content(self) -> tuple[bytes, str] | None:
        """Return the bytes and the media type of the logo, by its content; None without a logo.

        Raises SettingsError.
        """
        if self.logo is None:
            return None
        try:
            with self.logo.open("rb") as file:
                data = file.read(MOST_LOGO + 1)
        except OSError as error:
            raise SettingsError(f"logo {self.logo} cannot be read: {error.strerror}") from None
        found = identify(data[:HEAD])
        if found is None or found.name not in LOGOS:
            raise SettingsError(
                f"logo {self.logo} is {found.name if found else 'no picture'}; it must be "
                f"{', '.join(LOGOS)}"
            )
        if len(data) > MOST_LOGO:
            raise SettingsError(
                f"logo {self.logo} has over {MOST_LOGO // 1024} KiB; make it smaller"
            )
        return data, LOGOS[found.name]

    def display(self, classes: Sequence[str]) -> list[dict[str, str]]:
        """Return label and name of each class of a model, in the order for people."""
        known = [label for label in self.classes if label in classes]
        rest = [label for label in classes if label not in self.classes]
        return [{"label": each, "name": self.classes.get(each, each)} for each in known + rest]

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise SettingsError if `classes` names one that the model lacks, or two look the same."""
        if unknown := [label for label in self.classes if label not in classes]:
            raise SettingsError(
                f"the page's settings name the classes {', '.join(unknown[:5])}, which the model "
                f"does not have; its classes are {', '.join(classes[:20])}"
                + (f" and {len(classes) - 20} more" if len(classes) > 20 else "")
            )
        names = [each["name"] for each in self.display(classes)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SettingsError(
                f"two classes would have the name {twice[0]!r} on the page; give each its own"
            )


def read_page(path: Path | None) -> PageSettings:
    """Return the settings in a TOML file; None gives the defaults. Raises SettingsError."""
    if path is None:
        return PageSettings()
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no TOML file: {error}") from None
    known = [each.name for each in fields(PageSettings)]
    if unknown := sorted(given.keys() - set(known)):
        raise SettingsError(
            f"{path} has the setting {unknown[0]!r}; the settings are {', '.join(known)}"
        )
    logo: Any = given.get("logo")
    if logo is not None and not (isinstance(logo, str) and logo):
        raise SettingsError(f"{path}: logo is {logo!r}; it must be the path of a file")
    values = given if logo is None else {**given, "logo": path.parent / logo}
    try:
        return PageSettings(**values)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def _problems_of_names(classes: object) -> list[str]:
    if not isinstance(classes, Mapping):
        return [f"classes is {classes!r}; it must be a table of names by class"]
    return [
        f"the name of class {label!r} is {name!r}; it must be a line of 1 to {LONGEST_NAME} "
        "characters"
        for label, name in classes.items()
        if not _is_line(name, LONGEST_NAME)
    ]


def _is_line(text: object, longest: int) -> bool:
    return (
        isinstance(text, str)
        and text == text.strip()
        and 0 < len(text) <= longest
        and text.isprintable()
    )
