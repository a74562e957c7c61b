"""`tailorbird train`: photos in, one tested model file out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailorbird.cli import output, results
from tailorbird.cli.head_options import INNER_HELP, inner_layers

_SEARCHED = "searched when not given"
_TUNING = "Fine-tuning"


def train(
    photos: Annotated[
        Path,
        typer.Argument(help="Class folders, split/class folders, or a CSV path,label[,split]."),
    ],
    model: Annotated[Path, typer.Option("--output", "-o", help="The model file to write.")] = Path(
        "model.onnx"
    ),
    backbone: Annotated[
        str, typer.Option(help="A name from `tailorbird backbones`, or an .onnx file.")
    ] = "pocket",
    views: Annotated[
        int, typer.Option(help="Views of each training photo; those after the first are augmented.")
    ] = 1,
    inner: Annotated[
        str | None,
        typer.Option(help=f"{INNER_HELP}; {_SEARCHED}."),
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(help=f"Dropout, 0 to below 1; {_SEARCHED}.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help=f"Adam's learning rate; {_SEARCHED}.")
    ] = None,
    l2: Annotated[
        float | None, typer.Option(help=f"Strength of the L2 penalty; {_SEARCHED}.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="The most epochs; early stopping may end sooner.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples in a step.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without improvement before stopping early.")
    ] = None,
    batch_norm: Annotated[
        bool | None,
        typer.Option("--batch-norm/--no-batch-norm", help="Batch normalisation in inner layers."),
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Label smoothing, 0 to below 1.")
    ] = None,
    class_weight: Annotated[
        str | None, typer.Option(help="`balanced` weighs rare classes up.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Learning-rate schedule: cosine or constant.")
    ] = None,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit", help="At the end, train the chosen head on train and validation together."
        ),
    ] = False,
    precision: Annotated[
        float,
        typer.Option(help="Precision wanted of sure answers; below the threshold it is unsure."),
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="Seed of the split, the search and the fit.")] = 0,
    manifest: Annotated[
        Path | None, typer.Option(help="Also write the split that was used, as a CSV.")
    ] = None,
    corrections: Annotated[
        str | None,
        typer.Option(
            help="Learn from people's corrections too: the database's file or postgresql:// URL."
        ),
    ] = None,
    corrections_photos: Annotated[
        Path | None,
        typer.Option(
            help="The folder of their photos; for shop.db it is shop.photos when not given."
        ),
    ] = None,
    finetune: Annotated[
        bool,
        typer.Option(
            "--finetune",
            help="Then train the backbone itself too, from that head on. It must be one pulled as keras:NAME.",
            rich_help_panel=_TUNING,
        ),
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(
            help="The framework that trains: keras (needs tailorbird[keras]).",
            rich_help_panel=_TUNING,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Sides of the pictures in pixels, a stage each: 150,299; a smaller one, then the backbone's.",
            rich_help_panel=_TUNING,
        ),
    ] = None,
    unfreeze: Annotated[
        str | None,
        typer.Option(
            help="gradual (top layers, then lower ones; the default), all, or the number of top layers.",
            rich_help_panel=_TUNING,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="The most time it may take: 10m, 90s, 1.5h.", rich_help_panel=_TUNING),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(help="adamw (the default), adam, sgd or rmsprop.", rich_help_panel=_TUNING),
    ] = None,
    base_rate: Annotated[
        float | None,
        typer.Option(
            help="The backbone's learning rate, as a fraction of the head's.",
            rich_help_panel=_TUNING,
        ),
    ] = None,
    depth_decay: Annotated[
        float | None,
        typer.Option(
            help="The lowest trained layer's learning rate, as a fraction of the topmost's.",
            rich_help_panel=_TUNING,
        ),
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(help="Decoupled weight decay, as in AdamW.", rich_help_panel=_TUNING),
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(
            help="Average of the weights: what stays of it after ten steps; 0 for none.",
            rich_help_panel=_TUNING,
        ),
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            help="Changes to the augmentation, such as zoom=0.2,rotation=15,flip=no; or none.",
            rich_help_panel=_TUNING,
        ),
    ] = None,
    no_augment: Annotated[
        bool,
        typer.Option(
            "--no-augment", help="Train on the photos as they are.", rich_help_panel=_TUNING
        ),
    ] = False,
    mixed_precision: Annotated[
        bool,
        typer.Option(
            "--mixed-precision", help="Sixteen-bit arithmetic, for GPUs.", rich_help_panel=_TUNING
        ),
    ] = False,
    devices: Annotated[
        int | None,
        typer.Option(
            help="How many GPUs of this machine share each step.", rich_help_panel=_TUNING
        ),
    ] = None,
    suspects: Annotated[
        bool,
        typer.Option(
            "--suspects",
            help="Also look for labels that are probably wrong, and show them in the report.",
        ),
    ] = False,
    report: output.ReportPath = None,
    no_report: output.NoReport = False,
    report_format: output.ReportFormat = "html",
    json: output.Json = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Train a classifier: scan, split, embed, choose the head, calibrate, test once, write one ONNX file and a report.

    The report contains photos.
    """
    from tailorbird import training
    from tailorbird.cli import tuning_options

    options = {
        "backbone": backbone,
        "views": views,
        "inner": inner_layers(inner),
        "dropout": dropout,
        "learning_rate": learning_rate,
        "l2": l2,
        "epochs": epochs,
        "batch_size": batch_size,
        "patience": patience,
        "batch_norm": batch_norm,
        "label_smoothing": label_smoothing,
        "class_weight": class_weight,
        "schedule": schedule,
        "refit": refit,
        "precision": precision,
        "seed": seed,
        "manifest": manifest,
        "corrections": corrections,
        "corrections_photos": corrections_photos,
        "judge_labels": suspects,
        "report": output.wanted_report(report, no_report),
        "report_format": report_format,
        "engine": engine,
        "sizes": tuning_options.sizes(size),
        "unfreeze": tuning_options.unfreeze(unfreeze),
        "budget": tuning_options.seconds(budget),
        "optimizer": optimizer,
        "base_rate": base_rate,
        "depth_decay": depth_decay,
        "weight_decay": weight_decay,
        "ema": ema,
        "mixed_precision": mixed_precision or None,
        "devices": devices,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if no_augment or augment is not None:
        given["augmentation"] = None if no_augment else tuning_options.augmentation(augment or "")
    settings = training.settings_from_options(finetune=finetune, **given)
    with output.ProgressBar() as progress:
        result = training.train(photos, model, settings, progress=progress)
    if json:
        output.print_json(result.as_dict())
    else:
        results.print_result(result, verbose=verbose)
    output.say_report(None if json else result.report, result.report_error)
