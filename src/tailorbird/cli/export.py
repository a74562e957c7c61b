"""`tailorbird export`: write a model file in the format of another framework, or as int8."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli import output
from tailorbird.cli.options import JsonOption, ModelArgument, reads_photos
from tailorbird.cli.results import print_quantised

if TYPE_CHECKING:
    from tailorbird.int8 import QuantisedModel

INT8 = "int8"


@reads_photos
def export(
    data: Any,
    model: ModelArgument,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Format: keras or timm, the framework of the model's backbone (the default); or "
            "int8 with --photos.",
        ),
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Option(
            metavar="PHOTOS",
            help="For int8: the photos the model was trained on, to calibrate and score on.",
        ),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write; by default NAME.keras, NAME.timm/model.safetensors or "
            "NAME.int8.onnx.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Export a model to Keras or timm, checked to predict the same, or to int8, if as accurate.

    The .keras file holds preprocessing, backbone, head and calibration. For timm.create_model there
    are model.safetensors and config.json; the head must have been trained with --inner 0. An int8
    model file is smaller and usually faster; it is calibrated anew, scored on its validation and
    test photos, and keeps its heat maps. Exits 1 and writes nothing if int8 loses more than half a
    point of accuracy.
    """
    if to == INT8:
        _export_int8(model, photos, target, data, json=json)
        return
    from tailorbird.engines.exporting import export_model
    from tailorbird.errors import SettingsError

    if photos is not None:
        raise SettingsError(f"--photos is for --to {INT8}; leave it out")
    done = export_model(model, target, to=to)
    if json:
        output.print_json({"model": str(model), **done.as_dict()})
        return
    output.line(f"{done.path}: {done.use}; differs from {model} by at most {done.difference:.1e}")
    output.say(f"classes, in order: {', '.join(done.classes)}")
    output.say(f"open it: {done.opening}")


def _export_int8(
    model: Path, photos: Path | None, target: Path | None, data: Any, *, json: bool
) -> None:
    from tailorbird.int8 import AccuracyLost, quantise_model

    def show(result: QuantisedModel) -> None:
        output.print_left_out(result.left_out)
        for note in result.notes:
            output.say(note)
        if json:
            output.print_json({"model": str(model), **result.as_dict()})
        else:
            print_quantised(result)

    with output.ProgressBar() as progress:
        try:
            result = quantise_model(model, photos, target, data=data, progress=progress)
        except AccuracyLost as lost:
            show(lost.result)
            raise
    show(result)
