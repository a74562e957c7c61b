"""Settings of a labelling."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tailorbird.backbone.catalogue import DEFAULT
from tailorbird.dataset.labels import typed_label
from tailorbird.errors import SettingsError
from tailorbird.validation import Problems


@dataclass(frozen=True)
class LabelSettings:
    """How photos are labelled. Frozen and checked.

    Args:
        classes: classes to begin with; more can be added at any time. Photos in a folder that has
            the name of one of them start with that label.
        backbone: name or .onnx file of the backbone whose features say what looks alike.
        mirror: average the features of each photo with those of its mirror image.
        follow_links: also read files outside the folder, through links inside it.
        seed: of clusterings and heads, at least 0.

    Raises:
        SettingsError: names every invalid value.
    """

    classes: tuple[str, ...] = ()
    backbone: str | Path = DEFAULT
    mirror: bool = False
    follow_links: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        found: tuple[str, ...] = ()
        with Problems() as problems:
            problems.whole("seed", self.seed, 0)
            for name in self.classes:
                try:
                    found = (*found, typed_label(name, found))
                except SettingsError as error:
                    problems.add(str(error))
        object.__setattr__(self, "classes", tuple(dict.fromkeys(found)))
