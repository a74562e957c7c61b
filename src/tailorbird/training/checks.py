"""The options of training, checked before the long part begins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tailorbird.errors import SettingsError
from tailorbird.preparation import MOST_VIEWS


def check_settings(
    output: Path,
    others: Mapping[str, str | Path | None],
    views: int,
    precision: float,
    seed: int,
    *,
    without_features: bool,
    tunes: bool,
    refit: bool,
    judge_labels: bool,
    engine: str | None,
    sizes: tuple[int, ...] | None,
    inner: bool,
) -> None:
    """Raise one SettingsError that names everything wrong with these options.

    others: further files to write, by what they are. without_features: there is no pretrained backbone. tunes: the network trains.
    inner: the head's inner layers were chosen.
    """
    problems = []
    if tunes and refit:
        problems.append(
            "refit trains the head on frozen features only; leave it out where the network itself trains"
        )
    if engine is not None and not tunes:
        problems.append(
            f"engine is {engine!r}, but nothing is to be trained by it; ask for fine-tuning too (--finetune)"
        )
    if without_features and sizes is not None and len(sizes) > 1:
        problems.append(
            f"sizes are {sizes}; a network whose dense layer sees positions trains at one size: give one, such as 150"
        )
    if without_features and judge_labels:
        problems.append(
            "labels are judged by a pretrained backbone's features; leave that out (--suspects) or give a backbone"
        )
    if without_features and inner:
        problems.append(
            "inner would change nothing: the layers of a network from scratch are given; leave it out"
        )
    if without_features and views > 1:
        problems.append(
            "views are for cached features; a network that trains from scratch sees a new view in every epoch"
        )
    if output.suffix != ".onnx":
        problems.append(f"the model file is {output.name!r}; its name must end in .onnx")
    if output.is_dir():
        problems.append(f"{output} is a folder; give the name of a file")
    files = {
        "model": output,
        **{name: Path(path) for name, path in others.items() if path is not None},
    }
    for name, path in files.items():
        parent = next(folder for folder in path.absolute().parents if folder.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            problems.append(
                f"the {name} {path} cannot be written: {parent} is not a folder this user may write to"
            )
    manifest, report = files.get("manifest"), files.get("report")
    if manifest is not None and (manifest.suffix.lower() != ".csv" or manifest.is_dir()):
        problems.append(f"the manifest is {str(manifest)!r}; give the name of a .csv file")
    if report is not None and (report.is_dir() or report.suffix.lower() in (".onnx", ".csv")):
        problems.append(
            f"the report is {str(report)!r}; give the name of a file such as shop.report.html"
        )
    if not 1 <= views <= MOST_VIEWS:
        problems.append(f"views is {views}; it must be between 1 and {MOST_VIEWS}")
    if not 0.5 <= precision <= 1:
        problems.append(f"precision is {precision}; it must be between 0.5 and 1")
    if not 0 <= seed < 2**32:
        problems.append(f"seed is {seed}; it must be between 0 and 4294967295")
    if problems:
        raise SettingsError("; ".join(problems))
