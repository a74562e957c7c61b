"""`tailorbird import`: a model trained in a Keras notebook becomes a model file. (`import` is no name a Python module can have.)"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailorbird.cli import output
from tailorbird.cli.results import print_scores

if TYPE_CHECKING:
    from tailorbird.importing import ImportResult

SHOWN = 10


def import_model(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A .keras or .h5 file that model.save wrote, with Keras 3 or 2."
        ),
    ],
    target: Annotated[Path, typer.Option("--output", "-o", help="The model file to write, .onnx.")],
    classes: Annotated[
        str,
        typer.Option(
            help="The classes in the order of the outputs: a file with one on each line (or class_indices as JSON), or a list such as hat,shirt."
        ),
    ],
    preprocess: Annotated[
        str | None,
        typer.Option(
            help="How pixels were prepared in training: the keras.applications module whose preprocess_input was used, such as xception or "
            "mobilenet_v2; or tf, torch, caffe, unit (x / 255) or none. By default what the model itself tells."
        ),
    ] = None,
    validate: Annotated[
        Path | None,
        typer.Option(
            help="Labelled photos, as for train, to calibrate and score the model on; their classes are matched by name."
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the images in pixels, for a model that takes any.")
    ] = None,
    precision: Annotated[
        float,
        typer.Option(
            help='What the answers above the "unsure below" threshold should reach on photos, 0.5 to 1.'
        ),
    ] = 0.95,
    seed: Annotated[
        int, typer.Option(help="Of the halves that photos without splits are dealt into.")
    ] = 0,
    json: output.Json = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Make a model file of a classifier trained in Keras: checked against Keras, calibrated and scored where photos are given.

    Needs tailorbird[keras]; the file that is written does not. Heat maps come with it where the model ends in pooling or flattening and
    dense layers with ReLU. Lambda layers are refused: nothing in the file is ever run as code.
    """
    from tailorbird import importing

    with output.ProgressBar() as progress:
        result = importing.import_model(
            model,
            target,
            classes=classes,
            preprocess=preprocess,
            size=size,
            validate=validate,
            precision=precision,
            seed=seed,
            progress=progress,
        )
    left_out = result.photos.data.left_out if result.photos else ()
    for path, reason in left_out if verbose else left_out[:SHOWN]:
        output.say(f"left out: {path}: {reason}")
    if len(left_out) > SHOWN and not verbose:
        output.say(f"left out: {len(left_out) - SHOWN} more; -v shows all")
    for note in result.notes:
        output.say(note)
    for warning in result.warnings:
        output.complain(f"warning: {warning}")
    if json:
        output.print_json(result.as_dict())
        return
    print_import(result, verbose=verbose)


def print_import(result: ImportResult, *, verbose: bool) -> None:
    """What a person wants to know of an import, on standard output."""
    console = output.out()

    def line(text: str) -> None:
        console.print(output.printable(text), markup=False, soft_wrap=True)

    if result.test is not None:
        print_scores(result.test, "Test", verbose=verbose)
    else:
        line("Not scored and not calibrated: that takes labelled photos.")
    line(f"Preprocessing: {result.preprocess}: {result.preprocess_reason}")
    compared = "photos" if result.photos else "drawn pictures"
    line(
        f"Agrees with Keras to {result.agreement:.1g} in a probability, on {result.compared} {compared}"
    )
    line(
        "Heat maps: yes"
        if result.heatmaps
        else f"Heat maps: none: {result.info.settings['no_heatmaps']}"
    )
    line(f"Model: {result.model}: {len(result.info.classes)} classes, {result.info.resize.size} px")
