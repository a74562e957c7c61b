"""`tailorbird demo`: the whole path on pictures it draws itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from tailorbird.cli import output
from tailorbird.cli.results import print_result

SHOWN = 6


def demo(
    folder: Annotated[Path, typer.Argument(help="Where the pictures and the model go.")] = Path(
        "tailorbird-demo"
    ),
    per_class: Annotated[
        int, typer.Option(help="Pictures of each of the ten classes.", min=12, max=2000)
    ] = 60,
    seed: Annotated[int, typer.Option(help="Seed of the drawing and the training.", min=0)] = 0,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Draw a sample wardrobe, train on it, score, predict, and say what to do next; about a minute on two cores."""
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
    print_result(result, verbose=verbose)
    output.say_report(result.report, result.report_error)

    output.say(
        f"3. Predicting pictures it has not seen, as in: tailorbird predict {model} {photos}/hat"
    )
    tested = [sample for sample in result.dataset.samples if sample.split == "test"]
    classifier = Classifier(model)
    step = max(1, len(tested) // SHOWN)
    for sample in tested[::step][:SHOWN]:
        prediction = classifier.predict(sample.path)
        said = f"not sure, perhaps {prediction.label}" if prediction.unsure else prediction.label
        mark = "right" if prediction.label == sample.label else f"wrong, it is {sample.label}"
        output.out().print(
            f"  {sample.name}: {said} ({prediction.probability:.0%}; {mark})",
            markup=False,
            soft_wrap=True,
        )

    output.say(
        f"Done in {output.duration(time.perf_counter() - start)}. These were drawings; now with photos of your own, a folder for each class:"
    )
    output.say("  tailorbird scan PHOTOS                     what is wrong with the data")
    output.say("  tailorbird train PHOTOS -o shop.onnx       a tested model in one file")
    output.say("  tailorbird evaluate shop.onnx NEW_PHOTOS   scores on photos it has not seen")
    output.say("  tailorbird predict shop.onnx *.jpg         use it; --json and --csv for programs")
    output.say(
        "  tailorbird explain shop.onnx a.jpg         see which places of a photo speak for its class"
    )
    if result.report is not None:
        output.say(f"The report, a page for any browser: {output.printable(str(result.report))}")
