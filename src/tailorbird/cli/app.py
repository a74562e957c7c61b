"""The application: its commands, in the order in which a user needs them."""

from __future__ import annotations

from typing import Annotated

import typer

from tailorbird.cli import (
    backbones,
    cache,
    compare,
    corrections,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    features,
    find_lr,
    health,
    import_model,
    label,
    learning_curve,
    output,
    predict,
    report,
    retrain,
    review,
    scan,
    serve,
    sweep,
    train,
)
from tailorbird.cli.options import Command, common

app = typer.Typer(
    name="tailorbird",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich takes longer than everything else in --help
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(requested: bool) -> None:
    if requested:
        import tailorbird

        typer.echo(f"tailorbird {tailorbird.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Train a tested, portable image classifier from a folder of labelled photos.

    Begin with `tailorbird demo`, or with `tailorbird train PHOTOS` on a folder of class folders.
    """
    output.reset_verbosity()


for _name, _function in (
    ("demo", demo.demo),
    ("scan", scan.scan),
    ("label", label.label),
    ("review", review.review),
    ("find-lr", find_lr.find_lr),
    ("sweep", sweep.sweep),
    ("learning-curve", learning_curve.learning_curve),
    ("train", train.train),
    ("import", import_model.import_model),
    ("evaluate", evaluate.evaluate),
    ("compare", compare.compare),
    ("retrain", retrain.retrain),
    ("predict", predict.predict),
    ("explain", explain.explain),
    ("features", features.features),
    ("report", report.report),
    ("export", export.export),
    ("serve", serve.serve),
    ("health", health.health),
    ("doctor", doctor.doctor),
):
    app.command(_name, cls=Command)(common(_function))
for _name, _group in (
    ("corrections", corrections.app),
    ("backbones", backbones.app),
    ("cache", cache.app),
):
    app.add_typer(_group, name=_name)
