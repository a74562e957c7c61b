"""`tailorbird retrain`: train again with corrections, and replace the model if not worse."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli import output
from tailorbird.cli.options import JsonOption, on_device, reads_photos
from tailorbird.cli.secrets import secret_from

if TYPE_CHECKING:
    from tailorbird.retraining import Retraining

WORSE_EXIT_CODE = 3


@on_device
@reads_photos
def retrain(
    data: Any,
    model: Annotated[
        Path,
        typer.Argument(
            envvar="TAILORBIRD_MODEL",
            metavar="MODEL",
            help="Model file in place, which may be served.",
        ),
    ],
    photos: Annotated[
        Path,
        typer.Argument(
            envvar="TAILORBIRD_DATASET",
            metavar="PHOTOS",
            help="Class folders, split/class folders, or a CSV with the columns "
            "path,label[,split].",
        ),
    ],
    corrections: Annotated[
        str | None,
        typer.Option(
            envvar="TAILORBIRD_CORRECTIONS",
            help="Database of people's corrections: an SQLite file, a postgresql:// URL, or off; "
            "by default shop.db beside shop.onnx, if it exists.",
        ),
    ] = None,
    corrections_file: Annotated[
        Path | None,
        typer.Option(
            envvar="TAILORBIRD_CORRECTIONS_FILE",
            help="File with the value of --corrections, such as a mounted secret.",
        ),
    ] = None,
    corrections_photos: Annotated[
        Path | None,
        typer.Option(
            envvar="TAILORBIRD_PHOTOS",
            help="Folder of their photos; by default shop.photos for shop.db.",
        ),
    ] = None,
    none: Annotated[
        Path | None,
        typer.Option(
            "--none",
            help="Folder of photos that are none of the classes, as for train; photos that people "
            "say are none of these are added.",
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Backbone; by default that of the model in place.")
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(help="Accuracy that the new model may lose on the test photos, 0 to 1."),
    ] = 0.01,
    keep: Annotated[int, typer.Option(help="Number of replaced models to keep.")] = 3,
    put: Annotated[
        bool,
        typer.Option(
            "--replace/--no-replace",
            help="Replace the model if the new one is not worse; otherwise only keep the new one "
            "as a candidate.",
        ),
    ] = True,
    reload: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Address of the running service, which then loads the new model; needs its token.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="TAILORBIRD_TOKEN", show_envvar=True, help="Token of the service."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(envvar="TAILORBIRD_TOKEN_FILE", help="File with the token."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Train again with people's corrections, and replace the model if the new one is not worse.

    Trains as MODEL was trained and compares both on the test photos, which neither has seen.
    The replaced models and a candidate that was not put in place are kept beside the model, in
    shop.models for shop.onnx. Exits 0 if the model was replaced or nothing was new, 3 if the new
    one is worse and the model stays.
    """
    from tailorbird import retraining
    from tailorbird.service.probe import check_address, reload_model

    if reload is not None:
        check_address(reload)
    service_token = secret_from("token", token or None, token_file)
    with output.ProgressBar() as progress:
        result = retraining.retrain(
            model,
            photos,
            corrections=secret_from("corrections", corrections, corrections_file),
            corrections_photos=corrections_photos,
            none=none,
            backbone=backbone,
            tolerance=tolerance,
            keep=keep,
            replace=put,
            data=data,
            reload=partial(reload_model, reload, service_token) if reload else None,
            progress=progress,
        )
    output.print_json_or_text(result, _print, json=json)
    raise typer.Exit(WORSE_EXIT_CODE if result.decision == "worse" else 0)


def _print(result: Retraining) -> None:
    if result.trained.corrections is not None:
        output.line(result.trained.corrections.sentence())
    output.line(
        {
            "replaced": f"Replaced {result.model}: {result.reason}",
            "kept-candidate": f"Not replaced, as asked: {result.reason}",
            "unchanged": f"Not replaced: nothing is new: {result.reason}",
            "worse": f"Not replaced: {result.reason}",
        }[result.decision]
    )
    if result.candidate is not None:
        output.line(f"Candidate: {result.candidate}, its report beside it")
    if result.kept:
        output.line(f"Former models: {', '.join(map(str, result.kept))}")
    if result.reloaded:
        output.line("The service has loaded the model")
    elif result.decision == "replaced":
        output.line(
            "A service that runs keeps the former model until it reloads (--reload ADDRESS) or "
            "restarts"
        )
