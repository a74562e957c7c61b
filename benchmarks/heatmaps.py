"""Do the heat maps lie on the object? Drawn clothes, whose place is known, explained by models
trained on other drawings.

    python benchmarks/heatmaps.py [--backbone pocket] [--per-class 60] [--pictures 200]

A model is trained on a drawn wardrobe and explains pictures it has not seen, from other seeds. Of
the heat map of the predicted class: the share of its mass inside the garment's box, over the box's
share of the picture (1 is chance); how many pictures exceed chance; and the pointing game (Zhang et
al., ECCV 2016): how often the hottest place lies in the box. The box holds background too, between
trouser legs and around hats, so even a perfect map gains only what lies outside it. Also of the
mass: the mean over the box's middle half, which a map that points at garments should favour.
Garments fill the middle of these pictures, so a map that always glows there
would do well too: the same is therefore measured with each drawing at half its size in a place
drawn by chance on a plain ground ("moved"), where it would not. Without --backbone, pocket and,
where it is at hand, MobileNetV2 are measured.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from common import MOBILENET, folder, report
from PIL import Image

from tailorbird import demo
from tailorbird.model import Classifier
from tailorbird.training import train

UNSEEN = 5_000_000  # seeds from here on draw no picture of the wardrobe that was trained on


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--backbone", action="append", help="a backbone's name or .onnx file; may be repeated"
    )
    options.add_argument(
        "--per-class", type=int, default=60, help="drawings of each class to train on"
    )
    options.add_argument("--pictures", type=int, default=200, help="drawings to explain")
    given = options.parse_args()
    backbones = given.backbone or ["pocket", *([str(MOBILENET)] if MOBILENET.exists() else [])]
    with folder() as place:
        os.environ["TAILORBIRD_CACHE"] = str(place / "cache")
        demo.write(place / "wardrobe", per_class=given.per_class)
        for backbone in backbones:
            model = train(place / "wardrobe", place / "model.onnx", backbone=backbone, report=False)
            classifier = Classifier(model.model)
            figures = measure(classifier, given.pictures)
            moved = measure(classifier, given.pictures, moved=True)
            figures |= {
                f"moved_{name}": moved[name]
                for name in (
                    "right",
                    "mass_in_box",
                    "box_area",
                    "gain",
                    "above_chance",
                    "pointing_game",
                )
            }
            print(f"{Path(backbone).name}: test accuracy {model.test.accuracy:.3f}")
            report(f"heatmaps {Path(backbone).name}", figures["gain"], "> 1", **figures)


def measure(classifier: Classifier, pictures: int, *, moved: bool = False) -> dict[str, float]:
    """Return mean shares over `pictures` unseen drawings."""
    rows = []
    for number in range(pictures):
        drawing = demo.draw(demo.CLASSES[number % len(demo.CLASSES)], UNSEEN + number)
        if moved:
            drawing = elsewhere(drawing, np.random.default_rng(number))
        answer = classifier.predict(drawing.image, heatmaps=True)
        assert answer.heatmaps is not None
        inside, area, middle, middle_area, hit = place_of(answer.heatmaps[0], drawing)
        rows.append(
            (
                inside,
                area,
                inside > area,
                middle,
                middle_area,
                middle > middle_area,
                hit,
                answer.label == drawing.label,
            )
        )
    inside, area, above, middle, middle_area, above_middle, hit, right = np.array(rows, float).mean(
        axis=0
    )
    return {
        "pictures": pictures,
        "right": right,
        "mass_in_box": inside,
        "box_area": area,
        "gain": inside / area,
        "above_chance": above,
        "mass_in_middle": middle,
        "middle_area": middle_area,
        "gain_in_middle": middle / middle_area,
        "above_chance_in_middle": above_middle,
        "pointing_game": hit,
    }


def elsewhere(drawing: demo.Drawing, random: np.random.Generator) -> demo.Drawing:
    """The drawing at half its size, by chance somewhere on a ground of the colour of its own
    border.
    """
    width, height = drawing.image.size
    pixels = np.asarray(drawing.image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = Image.new("RGB", (width, height), tuple(int(v) for v in np.median(border, axis=0)))
    x, y = int(random.integers(width - width // 2)), int(random.integers(height - height // 2))
    ground.paste(drawing.image.resize((width // 2, height // 2), Image.Resampling.LANCZOS), (x, y))
    left, top, right, bottom = (side // 2 for side in drawing.box)
    return demo.Drawing(ground, drawing.label, (x + left, y + top, x + right, y + bottom))


def place_of(heatmap: np.ndarray, drawing: demo.Drawing) -> tuple[float, float, float, float, bool]:
    """Share of mass in the box, the box's share of the picture, the same of the box's middle half,
    whether the hottest place is in it.
    """
    width, height = drawing.image.size
    left, top, right, bottom = drawing.box
    box = (left / width, top / height, right / width, bottom / height)
    dx, dy = (box[2] - box[0]) * (1 - 0.5**0.5) / 2, (box[3] - box[1]) * (1 - 0.5**0.5) / 2
    middle = (box[0] + dx, box[1] + dy, box[2] - dx, box[3] - dy)
    total = float(heatmap.sum())
    row, column = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
    x, y = (column + 0.5) / heatmap.shape[1], (row + 0.5) / heatmap.shape[0]
    shares = [
        float((heatmap * cover(heatmap.shape, part)).sum()) / total if total else 0.0
        for part in (box, middle)
    ]
    areas = [(part[2] - part[0]) * (part[3] - part[1]) for part in (box, middle)]
    return (
        shares[0],
        areas[0],
        shares[1],
        areas[1],
        bool(total) and box[0] <= x < box[2] and box[1] <= y < box[3],
    )


def cover(shape: tuple[int, ...], box: tuple[float, float, float, float]) -> np.ndarray:
    """Return the share of each cell of the map that lies in the box, 0 to 1."""

    def along(low: float, high: float, cells: int) -> np.ndarray:
        edges = np.arange(cells + 1) / cells
        return np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) * cells

    return np.outer(along(box[1], box[3], shape[0]), along(box[0], box[2], shape[1]))


if __name__ == "__main__":
    main()
