"""The backbones available: the shipped ones and those that were pulled."""

from __future__ import annotations

import logging
from importlib import metadata, resources
from pathlib import Path

from tailorbird import onnx_files
from tailorbird.backbone.combining import combine
from tailorbird.backbone.contract import Backbone, BackboneInfo, check
from tailorbird.errors import BackboneError
from tailorbird.files import cache_folder
from tailorbird.inference import chosen

SHIPPED = ("lite", "pocket")
"""Names of the backbones in the package: the stronger one and the faster one."""

DEFAULT = "lite"
"""The name of the default backbone."""

SUFFIX = ".backbone.onnx"

SCHEMES = ("timm", "keras")
"""Schemes of references whose NAME is also the name of the pulled backbone."""

log = logging.getLogger(__name__)


def folder() -> Path:
    """Return the folder of pulled backbones."""
    return cache_folder() / "backbones"


def shipped(name: str) -> Path:
    """Return the file of a shipped backbone."""
    return Path(str(resources.files("tailorbird.backbone").joinpath(f"{name}.onnx")))


def installed_version() -> str:
    """Return the installed version of tailorbird, which backbones state as `adapted_by`."""
    try:
        return metadata.version("tailorbird")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "(not installed)"


def at_hand() -> list[BackboneInfo]:
    """List the backbones that have a name, the shipped ones first.

    Files that are not valid backbones are skipped with a logged warning.
    """
    known = []
    for path in [*map(shipped, SHIPPED), *sorted(folder().glob(f"*{SUFFIX}"))]:
        try:
            known.append(check(onnx_files.read_audited(path, BackboneError), path))
        except BackboneError as error:
            log.warning("%s", error)
    return known


def find(name: str | Path) -> Path:
    """Return the file of a backbone given by name or path, or as it was pulled: `timm:NAME`.

    Raises:
        BackboneError: No backbone has this name; the message lists those available.
    """
    text = str(name)
    scheme, colon, rest = text.partition(":")
    if colon and scheme.lower() in SCHEMES:
        if not (folder() / f"{rest}{SUFFIX}").exists():
            raise BackboneError(
                f"{text} is not installed; to install it: tailorbird backbones pull {text}"
            )
        text = rest
    if text in SHIPPED:
        return shipped(text)
    path = Path(text)
    if path.suffix == ".onnx" or path.is_file():
        return path
    pulled = folder() / f"{text}{SUFFIX}"
    if "/" not in text and "\\" not in text and pulled.exists():
        return pulled
    names = sorted(path.name.removesuffix(SUFFIX) for path in folder().glob(f"*{SUFFIX}"))
    raise BackboneError(
        f"there is no backbone named {text!r}; available: {', '.join([*SHIPPED, *names])}; "
        "give one of these or the path of an .onnx file, or pull one with "
        "`tailorbird backbones pull hf:OWNER/REPO`"
    )


def names_in(names: str | Path) -> list[str]:
    """Return the names or paths in a text that separates them by commas."""
    text = str(names)
    return [text] if Path(text).is_file() else [name.strip() for name in text.split(",")]


def files_read(names: str | Path) -> dict[str, Path]:
    """Return the files of one backbone or several by what messages call them.

    Raises:
        BackboneError: No backbone has one of the names.
    """
    paths = [find(name) for name in names_in(names)]
    return {f"backbone {path}" if len(paths) > 1 else "backbone": path for path in paths}


def open_backbone(names: str | Path = DEFAULT, *, mirror: bool = False) -> Backbone:
    """Open a backbone by name or path, or several whose features are put side by side.

    Args:
        names: One name or path, or several, separated by commas.
        mirror: Whether to average features with those of the mirrored image.

    It runs on the device asked for by `inference.use_device`.

    Raises:
        BackboneError: No backbone has this name, a file breaks the contract, or they cannot be
            joined.
        SettingsError: The device is not available.
    """
    choice = chosen()
    backbones = [Backbone(find(name), choice=choice) for name in names_in(names)]
    return combine(backbones, mirror=mirror)
