"""`tailorbird import`: convert a classifier trained elsewhere.

A module cannot be named import.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli import output
from tailorbird.cli.options import JsonOption, on_device, reads_photos
from tailorbird.cli.results import print_confusion, print_scores

if TYPE_CHECKING:
    from tailorbird.importing import ImportResult


@on_device
@reads_photos
def import_model(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="An .onnx file of any framework; a .keras or .h5 file written by model.save of "
            "Keras 3 or 2; or .safetensors weights of a timm network, with --arch.",
        ),
    ],
    target: Annotated[Path, typer.Option("--output", "-o", help="Model file to write, .onnx.")],
    classes: Annotated[
        str | None,
        typer.Option(
            help="Class names in the order of the outputs: a file with one name per line (or "
            "class_indices as JSON), or a list such as hat,shirt. By default those stored in the "
            "file."
        ),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(help="For .safetensors: name of the timm network, such as resnet50."),
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(
            help="Preprocessing used in training: imagenet (also torch), unit (x / 255), tf "
            "(x / 127.5 - 1), caffe, bgr or none; for Keras also the keras.applications module "
            "whose preprocess_input was used, such as xception. By default the one stored in the "
            "model."
        ),
    ] = None,
    validate: Annotated[
        Path | None,
        typer.Option(
            help="Labelled photos, as for `train`, to calibrate and score the model on; classes "
            "are matched by name."
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Side of the input in pixels, for a model that accepts any size."),
    ] = None,
    precision: Annotated[
        float, typer.Option(help="Target precision above the confidence threshold, 0.5 to 1.")
    ] = 0.95,
    refuse: Annotated[
        float,
        typer.Option(
            help="With --validate: share of photos of the classes that may be refused as none of "
            "them, 0 to 0.5; 0: never say so."
        ),
    ] = 0.02,
    seed: Annotated[
        int, typer.Option(help="Seed for splitting photos into calibration and test.")
    ] = 0,
    data: Any = None,
    json: JsonOption = False,
) -> None:
    """Convert a classifier trained elsewhere to a model file.

    The model file is compared with the source, and calibrated and scored if photos are given. Files
    of Keras need the extra `keras` and .safetensors the extra `torch`; ONNX files and the finished
    model file need neither. Heat maps are included if the model ends in pooling or flattening and
    dense layers with ReLU. No code in a file is ever run: Lambda layers, pickles and operators
    outside the ONNX standard are refused.
    """
    from tailorbird import importing

    with output.ProgressBar() as progress:
        result = importing.import_model(
            model,
            target,
            classes=classes or (),
            arch=arch,
            preprocess=preprocess,
            size=size,
            validate=validate,
            data=data,
            precision=precision,
            refuse=refuse,
            seed=seed,
            progress=progress,
        )
    output.print_left_out(result.photos.data.left_out if result.photos else ())
    for note in result.notes:
        output.say(note)
    for warning in result.warnings:
        output.print_error(f"warning: {warning}")
    output.print_json_or_text(result, print_import, json=json)


def print_import(result: ImportResult) -> None:
    """Print the scores and properties of an imported model."""
    if result.test is not None:
        print_scores(result.test, "Test")
        if output.STATE.verbose:
            print_confusion(result.test)
    else:
        output.line("Not scored and not calibrated: this needs labelled photos.")
    output.line(f"Preprocessing: {result.preprocess}: {result.preprocess_reason}")
    compared = "photos" if result.photos else "drawn pictures"
    output.line(
        f"Largest difference of a probability from the source: {result.agreement:.1g}, on "
        f"{result.compared} {compared}"
    )
    maps = "yes" if result.heatmaps else f"none: {result.info.settings['no_heatmaps']}"
    output.line(f"Heat maps: {maps}")
    output.line(
        f"Model: {result.model}: {len(result.info.classes)} classes, {result.info.resize.size} px"
    )
