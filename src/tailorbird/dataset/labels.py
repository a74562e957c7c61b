"""Class labels: their normal form, and labels that differ only in how they are written."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from tailorbird.errors import SettingsError

LONGEST_TYPED = 100
"""Maximum number of characters of a label that a visitor types."""


NONE_OF_THESE = "none of these"
"""Label of photos that belong to no class: they teach what to refuse."""


@lru_cache(maxsize=4096)  # asked of every photo's label, several times
def is_none_of_these(label: str) -> bool:
    """Whether a label says that its photos belong to no class: also `None_of-these`."""
    return folded_label(label.replace("_", " ").replace("-", " ")) == NONE_OF_THESE


def normal_label(text: str) -> str:
    """Return a label in Unicode's composed form (NFC), without spaces around it."""
    return unicodedata.normalize("NFC", text).strip()


def folded_label(text: str) -> str:
    """Return the form that two labels share if people cannot tell them apart.

    Upper and lower case, composed and decomposed characters, full-width forms, invisible characters
    (zero-width spaces, direction marks) and the number and kind of spaces make no difference.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    return "/".join(" ".join(part.split()) for part in text.split("/"))


def label_difference(a: str, b: str) -> str:
    """Return how two labels with the same folded form differ, in words for a message."""
    if a.casefold() == b.casefold():
        return "upper and lower case"
    if "".join(a.split()) == "".join(b.split()):
        return "spaces"
    if _visible(a) == _visible(b):
        return "invisible characters"
    if unicodedata.normalize("NFC", a) == unicodedata.normalize("NFC", b):
        return "the Unicode form of accents"
    return "spelling that looks the same"


def _visible(text: str) -> str:
    return "".join(c for c in text if unicodedata.category(c) != "Cf")


def colliding_labels(labels: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the groups of two and more labels whose folded forms are equal, sorted."""
    folded: dict[str, set[str]] = {}
    for label in labels:
        folded.setdefault(folded_label(label), set()).add(label)
    return sorted(tuple(sorted(alike)) for alike in folded.values() if len(alike) > 1)


def similar_label(label: str, known: Iterable[str]) -> str | None:
    """Return the known label that differs from `label` only in how it is written, or None."""
    folded = folded_label(label)
    return next((one for one in known if one != label and folded_label(one) == folded), None)


def typed_label(text: str, known: Iterable[str]) -> str:
    """Return the label that a person means who types a category into a form.

    Args:
        text: what was typed.
        known: labels in use; one that differs from `text` only in how it is written is returned.

    Raises:
        SettingsError: the text cannot be a new label: it is too long, holds characters that cannot
            be seen, or has a part without a letter or a digit.
    """
    label = " ".join(part for part in normal_label(text).split(" ") if part)
    if label in (known := tuple(known)):
        return label
    if (alike := similar_label(label, known)) is not None:
        return alike
    if not 1 <= len(label) <= LONGEST_TYPED:
        raise SettingsError(
            f"the category has {len(label)} characters; a new one must have 1 to {LONGEST_TYPED}"
        )
    if not label.isprintable():
        raise SettingsError(
            f"the category {shown_label(label)} holds a character that cannot be seen; write it "
            "with letters, digits, spaces and punctuation"
        )
    if not all(any(c.isalnum() for c in part) for part in label.split("/")):
        raise SettingsError(
            f"the category {shown_label(label)} has a part without a letter or a digit; write a "
            "word, or words with / between them, such as shoes/boots"
        )
    return label


def unknown_label(label: str, known: Iterable[str], who: str = "the model has") -> str:
    """Return why a photo with this label cannot be used, and which known label is probably meant.

    Args:
        label: the photo's.
        known: the classes of the model.
        who: subject and verb of the message, such as `the model has` or `A and B have`.
    """
    alike = similar_label(label, known)
    if alike is None:
        return f"{who} no class {label!r}"
    return (
        f"{who} no class {shown_label(label)}, but {shown_label(alike)}, which differs only in "
        f"{label_difference(label, alike)}; give both the same name"
    )


def shown_label(label: str) -> str:
    """Return a label in quotes, with invisible and combining characters and odd spaces escaped.

    For messages about labels that look alike; safe to print.
    """
    escaped = "".join(
        f"\\u{ord(c):04x}" if _escaped(c) else c
        for c in label.encode("utf-8", "backslashreplace").decode()
    )
    return f"'{escaped}'"


def _escaped(c: str) -> bool:
    return unicodedata.category(c) in ("Cf", "Cc", "Mn") or (c.isspace() and c != " ")
