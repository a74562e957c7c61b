"""`tailorbird demo`: the whole way from photos to predictions, on drawn pictures."""

from __future__ import annotations

import shlex
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

    It takes less than a minute on two cores, and ends with the commands to try next.
    """
    from tailorbird import demo, training
    from tailorbird.model import Classifier
    from tailorbird.model.prediction import UNFAMILIAR

    start = time.perf_counter()
    photos, model = folder / "wardrobe", folder / "wardrobe.onnx"
    output.say(f"1. Drawing {per_class * len(demo.CLASSES)} pictures of clothes in {photos}")
    with output.ProgressBar() as progress:
        demo.write(photos, per_class=per_class, seed=seed, progress=progress)

    output.say(f"2. Training: {_command('train', photos, '-o', model)}")
    with output.ProgressBar() as progress:
        result = training.train(photos, model, seed=seed, progress=progress)
    print_result(result)
    output.print_report_path(result.report, result.report_error)

    tested = [sample for sample in result.dataset.samples if sample.split == "test"]
    shown = tested[:: max(1, len(tested) // SHOWN)][:SHOWN]
    predicting = _command("predict", model, shown[0].path)
    output.say(f"3. Predicting pictures it was not trained on: {predicting}")
    classifier = Classifier(model)
    for sample in shown:
        prediction = classifier.predict(sample.path)
        answer = prediction.label
        if prediction.unsure:
            doubt = UNFAMILIAR if prediction.unfamiliar else "not sure"
            answer = f"{doubt}, perhaps {answer}"
        mark = "right" if prediction.label == sample.label else f"wrong, it is {sample.label}"
        output.line(f"  {sample.name}: {answer} ({prediction.probability:.0%}; {mark})")

    seconds = output.duration(time.perf_counter() - start)
    output.say(f"Done in {seconds}.")
    _next(model)
    if result.report is not None:
        output.say(f"The report, a page for any browser: {result.report}")


def _next(model: Path) -> None:
    """Print the commands to try next, as they can be typed here."""
    from tailorbird import installing, service
    from tailorbird.errors import MissingExtra

    serving = _command("serve", model)
    try:
        service.need_extra()
        output.say(f"Try it in a browser: {serving}")
    except MissingExtra:
        output.say(f"Try it in a browser: {installing.install('serve')}, then {serving}")
    output.say("With photos of your own, a folder for each class:")
    commands = {
        "scan PHOTOS": "find problems in the data",
        "train PHOTOS -o shop.onnx": "train and test a model",
        "evaluate shop.onnx NEW_PHOTOS": "score it on new photos",
        "predict shop.onnx *.jpg": "use it; --json and --csv for programs",
        "explain shop.onnx a.jpg": "show which parts of a photo count",
    }
    typed = {output.runnable(f"tailorbird {each}"): use for each, use in commands.items()}
    width = max(map(len, typed))
    for command, use in typed.items():
        output.say(f"  {command:<{width}}  {use}")


def _command(*words: str | Path) -> str:
    """Return a command as it can be typed here."""
    return output.runnable(shlex.join(["tailorbird", *map(str, words)]))
