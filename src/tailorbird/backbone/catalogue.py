"""The backbones at hand: `pocket`, which ships with tailorbird, and those that were pulled."""

from __future__ import annotations

import logging
from importlib import resources
from pathlib import Path

from tailorbird import onnx_files
from tailorbird.backbone.contract import Backbone, BackboneInfo, check
from tailorbird.errors import BackboneError
from tailorbird.files import cache_folder

SHIPPED = "pocket"
SUFFIX = ".backbone.onnx"

log = logging.getLogger(__name__)


def folder() -> Path:
    """Where pulled backbones are kept."""
    return cache_folder() / "backbones"


def shipped() -> Path:
    """The file of `pocket`."""
    return Path(str(resources.files("tailorbird.backbone").joinpath("pocket.onnx")))


def at_hand() -> list[BackboneInfo]:
    """All backbones that can be named, `pocket` first. A file that is no backbone is left out with a logged warning."""
    found = [shipped(), *sorted(folder().glob(f"*{SUFFIX}"))]
    known = []
    for path in found:
        try:
            known.append(check(onnx_files.read_audited(path, BackboneError), path))
        except BackboneError as error:
            log.warning("%s", error)
    return known


def find(name: str | Path) -> Path:
    """The file of a backbone given by name or path. Raises BackboneError listing what is at hand."""
    text = str(name)
    if text == SHIPPED:
        return shipped()
    path = Path(name)
    if path.suffix == ".onnx" or path.is_file():
        return path
    pulled = folder() / f"{text}{SUFFIX}"
    if "/" not in text and "\\" not in text and pulled.exists():
        return pulled
    names = ", ".join(
        [SHIPPED, *sorted(p.name.removesuffix(SUFFIX) for p in folder().glob(f"*{SUFFIX}"))]
    )
    raise BackboneError(
        f"no backbone named {text!r} is at hand; there are: {names}; "
        "give one of these, the path of an .onnx file, or pull one with `tailorbird backbones pull hf:OWNER/REPO`"
    )


def open_backbone(name: str | Path = SHIPPED) -> Backbone:
    """Open a backbone by name or path. Raises BackboneError."""
    return Backbone(find(name))
