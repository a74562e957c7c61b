"""`tailorbird export`: a model file as another program's own format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailorbird.cli import output


def export(
    model: Annotated[Path, typer.Argument(help="A model file made by `tailorbird train`.")],
    to: Annotated[
        str, typer.Option("--to", help="The format: keras, for models trained on a Keras backbone.")
    ] = "keras",
    target: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The file; by default beside the model, as NAME.keras."
        ),
    ] = None,
    json: output.Json = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Hand a model back to Keras: one .keras file with preprocessing, backbone, head and calibration, checked to predict the same."""
    from tailorbird.engines.exporting import export_model

    done = export_model(model, target, to=to)
    if json:
        output.print_json({"model": str(model), **done.as_dict()})
        return
    output.out().print(
        f"{output.printable(str(done.path))}: {done.size} x {done.size} pixels, uint8 or float RGB 0 to 255, to "
        f"{len(done.classes)} probabilities; differs from {output.printable(str(model))} by at most {done.difference:.1e}",
        markup=False,
        soft_wrap=True,
    )
    output.say(f"classes, in order: {', '.join(map(output.printable, done.classes))}")
    output.say(f'open it: keras.saving.load_model("{output.printable(str(done.path))}")')
