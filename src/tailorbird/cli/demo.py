"""`tailorbird demo`: the whole way from photos to predictions, on drawn pictures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from tailorbird.cli import output
from tailorbird.cli.results import print_result

SHOWN = 6
"""Number of predictions printed."""


def demo(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder for the pictures and the model.")
    ] = Path("tailorbird-demo"),
    per_class: Annotated[
        int, typer.Option(help="Pictures of each of the ten classes.", min=12, max=2000)
    ] = 60,
    seed: Annotated[int, typer.Option(help="Seed of the drawing and the training.", min=0)] = 0,
) -> None:
    """Draw a sample dataset, train, score and predict.

    It takes about a minute on two cores, and ends with the commands to try next.
    """
    from tailorbird import demo, training
    from tailorbird.model import Classifier

    start = time.perf_counter()
    photos, model = folder / "wardrobe", folder / "wardrobe.onnx"
    output.say(f"1. Drawing {per_class * len(demo.CLASSES)} pictures of clothes in {photos}")
    with output.ProgressBar() as progress:
        demo.write(photos, per_class=per_class, seed=seed, progress=progress)

    output.say(f"2. Training: tailorbird train {photos} -o {model}")
    with output.ProgressBar() as progress:
        result = training.train(photos, model, seed=seed, progress=progress)
    print_result(result)
    output.print_report_path(result.report, result.report_error)

    output.say(f"3. Predicting pictures it was not trained on: tailorbird predict {model} PHOTOS")
    tested = [sample for sample in result.dataset.samples if sample.split == "test"]
    classifier = Classifier(model)
    step = max(1, len(tested) // SHOWN)
    for sample in tested[::step][:SHOWN]:
        prediction = classifier.predict(sample.path)
        answer = f"not sure, perhaps {prediction.label}" if prediction.unsure else prediction.label
        mark = "right" if prediction.label == sample.label else f"wrong, it is {sample.label}"
        output.line(f"  {sample.name}: {answer} ({prediction.probability:.0%}; {mark})")

    seconds = output.duration(time.perf_counter() - start)
    output.say(f"Done in {seconds}. Next, with photos of your own, a folder for each class:")
    output.say("  tailorbird scan PHOTOS                     find problems in the data")
    output.say("  tailorbird train PHOTOS -o shop.onnx       train and test a model")
    output.say("  tailorbird evaluate shop.onnx NEW_PHOTOS   score it on new photos")
    output.say("  tailorbird predict shop.onnx *.jpg         use it; --json and --csv for programs")
    output.say("  tailorbird explain shop.onnx a.jpg         show which parts of a photo count")
    if result.report is not None:
        output.say(f"The report, a page for any browser: {result.report}")
