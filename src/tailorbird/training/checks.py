"""The options of training, checked before the long part begins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tailorbird.dataset import listed_photos
from tailorbird.preparation import MOST_VIEWS
from tailorbird.validation import Problems


def check_settings(
    output: Path,
    others: Mapping[str, str | Path | None],
    inputs: Mapping[str, str | Path | None],
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

    others: further files to write, by what they are. inputs: what is read, the `dataset` among it.
    without_features: there is no pretrained backbone. tunes: the network trains.
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
    files = {"model": output, **others}
    with Problems() as found:
        for problem in problems:
            found.add(problem)
        found.ending("model file", output, ".onnx")
        found.ending("manifest", others.get("manifest"), ".csv")
        report = others.get("report")
        if report is not None and Path(report).suffix.lower() in (".onnx", ".csv"):
            found.add(
                f"the report is {str(report)!r}; give the name of a file such as shop.report.html"
            )
        found.outputs(
            files,
            inputs=inputs,
            photos=listed_photos(inputs["dataset"] or ""),
            make_folders=True,
        )
        found.whole("views", views, 1, MOST_VIEWS)
        found.number("precision", precision, 0.5, 1)
        found.seed(seed)
