"""`tailorbird backbones`: list the installed backbones; pull more, or quantise one to int8."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli import output
from tailorbird.cli.options import Command, JsonOption, SplitSeedOption, common, reads_photos
from tailorbird.cli.results import print_figures

if TYPE_CHECKING:
    from tailorbird.int8 import QuantisedBackbone

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)


@app.callback()
@common
def backbones(context: typer.Context, json: JsonOption = False) -> None:
    """List the installed backbones; `pull` installs more.

    Shows the file size, number of features, input size, and images per second measured now.
    """
    if context.invoked_subcommand is not None:
        return
    from tailorbird import parallel
    from tailorbird.backbone import Backbone, at_hand

    rows = []
    for info in at_hand():
        speed = Backbone(info.path).images_per_second() * parallel.cores()
        rows.append((info, speed))
    if json:
        found = [
            {
                **info.as_dict(),
                "path": str(info.path),
                "bytes": info.file_bytes,
                "images_per_second": round(speed, 1),
            }
            for info, speed in rows
        ]
        output.print_json({"backbones": found})
        return
    output.print_table(
        {"name": False, "MB": True, "input": True, "features": True, "heat maps": False,
         "images/s": True, "licence": False},
        [
            (info.name, f"{info.file_bytes / 1e6:.1f}", f"{info.size}", f"{info.width}",
             "x".join(map(str, info.grid)) if info.grid else "no", f"{speed:,.0f}", info.licence)
            for info, speed in rows
        ],
        gap=3,
    )  # fmt: skip
    if output.STATE.verbose:
        for info, _ in rows:
            output.line(f"{info.name}: {info.path}")
            output.line(f"  source: {info.source}")
            output.line(f"  trained on: {info.trained_on}")
            output.line(f"  sha256: {info.sha256}")
    output.say(
        f"images/s: measured now on one core, times the {parallel.cores()} available cores, "
        "without decoding; -v shows where each backbone came from"
    )
    output.say(
        "more: tailorbird backbones pull hf:onnx-community/dinov2-small, "
        "then train --backbone dinov2-small"
    )


@app.command(cls=Command)
@common
def pull(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REFERENCE",
            help="hf:OWNER/REPO, such as hf:onnx-community/dinov2-small; timm:NAME, such as "
            "timm:mobilenetv3_large_100; or keras:NAME, such as keras:Xception.",
        ),
    ],
    size: Annotated[
        int | None,
        typer.Option(help="Side of the input in pixels; by default the publisher's."),
    ] = None,
    file: Annotated[
        str | None, typer.Option(help="For hf: the ONNX file to use, if there are several.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="For hf: branch, tag or commit.")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Weights file to load instead of downloading: .safetensors or .pth for timm, "
            ".weights.h5 or .h5 for keras."
        ),
    ] = None,
    model_args: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="For timm: arguments of create_model, such as pad_type=same,bn_eps=0.001; mean "
            "and std replace timm's normalisation of pixels from 0 to 1.",
        ),
    ] = None,
    resize: Annotated[
        str,
        typer.Option(
            metavar="squash|published",
            help="For timm: squash photos to the input, which keeps all of them, or resize them as "
            "timm does for these weights: shorter side, then the middle cut out. --with-classes "
            "always does the latter.",
        ),
    ] = "squash",
    with_classes: Annotated[
        bool,
        typer.Option(
            "--with-classes",
            help="For timm and keras: export the full classifier, with ImageNet's 1000 classes, as "
            "a model file, not a backbone.",
        ),
    ] = False,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="With --with-classes: file of the class names, as for `tailorbird import`; by "
            "default they are downloaded."
        ),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="With --with-classes: model file; by default imagenet.onnx."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Download a backbone for `train --backbone NAME`.

    The source is the Hugging Face hub, timm (needs the extra `torch`) or Keras Applications (the
    extra `keras`); the file is kept in the cache folder, and using it needs no framework.
    """
    from tailorbird.backbone import Backbone
    from tailorbird.cli import parsing
    from tailorbird.engines.pulling import pull_backbone
    from tailorbird.errors import SettingsError

    arguments = parsing.model_arguments(model_args)
    if with_classes:
        options = {"classes": classes, "weights": weights, "size": size, "arguments": arguments}
        _import_classifier(reference, target or Path("imagenet.onnx"), options, json=json)
        return
    if classes or target:
        raise SettingsError("--classes and --output require --with-classes; leave them out")
    with output.ProgressBar() as progress:
        path = pull_backbone(
            reference,
            size=size,
            file=file,
            revision=revision,
            weights=weights,
            arguments=arguments,
            resize=resize,
            progress=progress,
        )
    info = Backbone(path).info
    if json:
        output.print_json({**info.as_dict(), "path": str(path), "bytes": info.file_bytes})
        return
    maps = "with heat maps" if info.grid else "without heat maps"
    output.line(
        f"{info.name}: {info.width} features at {info.size} px, {maps}, licence {info.licence}, "
        f"{info.file_bytes / 1e6:.1f} MB"
    )
    name = path.name.removesuffix(".backbone.onnx")
    output.line(f"use it: tailorbird train PHOTOS --backbone {name}")


@app.command(cls=Command)
@common
@reads_photos
def quantize(
    data: Any,
    backbone: Annotated[
        str,
        typer.Argument(
            metavar="BACKBONE",
            help="Float backbone: a name listed by `tailorbird backbones`, or an .onnx file.",
        ),
    ],
    photos: Annotated[
        Path,
        typer.Option(
            "--photos",
            metavar="PHOTOS",
            help="Labelled photos, as for `train`, to calibrate and check on.",
        ),
    ],
    target: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write; by default NAME-int8 becomes an installed backbone.",
        ),
    ] = None,
    seed: SplitSeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Quantise a backbone to int8.

    Calibrated on the photos, and compared with the float32 backbone by cross-validation on them, in
    accuracy and speed. Exits 1 and writes nothing if int8 loses more than half a point of accuracy.
    """
    from tailorbird.int8 import AccuracyLost, quantise_backbone

    with output.ProgressBar() as progress:
        try:
            result = quantise_backbone(
                backbone, photos, target, seed=seed, data=data, progress=progress
            )
        except AccuracyLost as lost:
            output.print_json_or_text(lost.result, _print_quantised, json=json)
            raise
    output.print_json_or_text(result, _print_quantised, json=json)


def _print_quantised(result: QuantisedBackbone) -> None:
    output.line(
        f"{result.folds}-fold cross-validation, {result.rounds} rounds, on {result.photos:,} "
        f"photos; calibrated on {result.calibrated_on:,}"
    )
    print_figures(result.figures)
    if result.path is not None:
        output.line(f"Backbone: {result.path}")
        given = result.path if not result.installed else result.name
        command = output.runnable(f"tailorbird train PHOTOS --backbone {shlex.quote(str(given))}")
        output.line(f"use it: {command}")


def _import_classifier(
    reference: str, target: Path, options: dict[str, Any], *, json: bool
) -> None:
    """Write a published classifier as a model file."""
    from tailorbird.cli.import_model import print_import
    from tailorbird.importing import import_application

    with output.ProgressBar() as progress:
        result = import_application(reference, target, **options, progress=progress)
    output.print_json_or_text(result, print_import, json=json)
