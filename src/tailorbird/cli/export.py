"""`tailorbird export`: write a model file in the format of another framework."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailorbird.cli import output
from tailorbird.cli.options import JsonOption, ModelArgument


def export(
    model: ModelArgument,
    to: Annotated[
        str, typer.Option("--to", help="Format: keras, for models with a Keras backbone.")
    ] = "keras",
    target: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; by default NAME.keras for NAME.onnx."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Export a model to Keras, checked to predict the same.

    The .keras file holds preprocessing, backbone, head and calibration.
    """
    from tailorbird.engines.exporting import export_model

    done = export_model(model, target, to=to)
    if json:
        output.print_json({"model": str(model), **done.as_dict()})
        return
    output.line(
        f"{done.path}: input {done.size} x {done.size} pixels, uint8 or float RGB 0 to 255; output "
        f"{len(done.classes)} probabilities; differs from {model} by at most {done.difference:.1e}"
    )
    output.say(f"classes, in order: {', '.join(done.classes)}")
    output.say(f'open it: keras.saving.load_model("{done.path}")')
