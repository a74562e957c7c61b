"""The application: its commands, in the order of a user's path."""

from __future__ import annotations

from typing import Annotated

import typer

from tailorbird.cli import (
    backbones,
    cache,
    compare,
    corrections,
    demo,
    evaluate,
    explain,
    export,
    find_lr,
    health,
    import_model,
    learning_curve,
    predict,
    report,
    review,
    scan,
    serve,
    sweep,
    train,
)

app = typer.Typer(
    name="tailorbird",
    help="From a folder of labelled photos to a tested, portable image classifier.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
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
    """From a folder of labelled photos to a tested, portable image classifier."""


app.command("demo")(demo.demo)
app.command("scan")(scan.scan)
app.command("review")(review.review)
app.command("find-lr")(find_lr.find_lr)
app.command("sweep")(sweep.sweep)
app.command("learning-curve")(learning_curve.learning_curve)
app.command("train")(train.train)
app.command("import")(import_model.import_model)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("predict")(predict.predict)
app.command("explain")(explain.explain)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("serve")(serve.serve)
app.add_typer(corrections.app, name="corrections")
app.command("health")(health.health)
app.add_typer(backbones.app, name="backbones")
app.add_typer(cache.app, name="cache")
