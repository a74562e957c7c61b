"""`tailorbird serve`: an upload page and an HTTP API for one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailorbird.cli import output
from tailorbird.cli.secrets import secret_from


def serve(
    model: Annotated[
        Path,
        typer.Argument(envvar="TAILORBIRD_MODEL", help="A model file made by `tailorbird train`."),
    ],
    host: Annotated[
        str,
        typer.Option(
            envvar="TAILORBIRD_HOST", help="Address to listen on; 0.0.0.0 for every network."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="TAILORBIRD_PORT", help="Port; 0 takes a free one.")
    ] = 8000,
    workers: Annotated[
        int,
        typer.Option(
            envvar="TAILORBIRD_WORKERS", help="Processes; they divide the cores among them."
        ),
    ] = 1,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="TAILORBIRD_TOKEN",
            show_envvar=True,
            help="Token wanted of every request about photos.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="TAILORBIRD_TOKEN_FILE",
            help="File that holds the token, as secrets are mounted.",
        ),
    ] = None,
    corrections: Annotated[
        str | None,
        typer.Option(
            envvar="TAILORBIRD_CORRECTIONS",
            help="Database of corrections: a path, a postgresql:// URL, or off. By default beside the model: shop.onnx -> shop.db.",
        ),
    ] = None,
    corrections_file: Annotated[
        Path | None,
        typer.Option(
            envvar="TAILORBIRD_CORRECTIONS_FILE",
            help="File that holds what --corrections takes, as secrets are mounted.",
        ),
    ] = None,
    keep_photos: Annotated[
        bool,
        typer.Option(
            "--keep-photos/--no-keep-photos",
            envvar="TAILORBIRD_KEEP_PHOTOS",
            help="Keep photos people corrected, to train on.",
        ),
    ] = False,
    photos: Annotated[
        Path | None,
        typer.Option(
            envvar="TAILORBIRD_PHOTOS",
            help="Folder for kept photos. By default beside the database: shop.photos.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            envvar="TAILORBIRD_ALLOW_HOSTS",
            help="Host name people reach this under, behind a proxy.",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            envvar="TAILORBIRD_ALLOW_ORIGINS",
            help="Site whose pages may call the API: https://shop.example.",
        ),
    ] = None,
    max_megabytes: Annotated[
        float,
        typer.Option(
            envvar="TAILORBIRD_MAX_MEGABYTES", help="Largest request, in MiB.", min=0.01, max=512
        ),
    ] = 20,
    max_megapixels: Annotated[
        float,
        typer.Option(
            envvar="TAILORBIRD_MAX_MEGAPIXELS",
            help="Largest photo; half of it for WebP and AVIF.",
            min=0.01,
            max=1000,
        ),
    ] = 50,
    queue: Annotated[
        int,
        typer.Option(
            envvar="TAILORBIRD_QUEUE",
            help="Photos that may wait in a process before more are refused.",
        ),
    ] = 64,
    batch: Annotated[
        int,
        typer.Option(envvar="TAILORBIRD_BATCH", help="The most photos in one run of the model."),
    ] = 4,
    deadline: Annotated[
        float, typer.Option(envvar="TAILORBIRD_DEADLINE", help="Seconds a request may take in all.")
    ] = 30,
    drain: Annotated[
        float,
        typer.Option(
            envvar="TAILORBIRD_DRAIN",
            help="Seconds between SIGTERM and the end of listening, for load balancers.",
        ),
    ] = 1,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Serve a model: an upload page at /, an HTTP API under /v1 and /v2 (described at /docs), /metrics. Ctrl-C ends it."""
    from tailorbird import service

    token = secret_from("token", token, token_file)
    url = _corrections(secret_from("corrections", corrections, corrections_file), model)
    settings = service.ServeSettings(
        model=model,
        host=host,
        port=port,
        workers=workers,
        token=token or None,
        corrections=url,
        photos=_photos(keep_photos, photos, url, model),
        allow_hosts=tuple(_split(allow_host)),
        allow_origins=tuple(_split(allow_origin)),
        max_body=int(max_megabytes * 2**20),
        max_pixels=int(max_megapixels * 1e6),
        queue=queue,
        batch=batch,
        deadline=deadline,
        drain=drain,
    )

    def announce(address: str) -> None:
        _announce(settings, address)

    service.serve(settings, announce=announce, quiet=quiet)


def _announce(settings: object, address: str) -> None:
    """Where it is, who can reach it, what it keeps."""
    from tailorbird.service import ServeSettings

    assert isinstance(settings, ServeSettings)
    if settings.is_loopback:
        reach = (
            "only programs on this machine can reach it (--host 0.0.0.0 opens it to the network)"
        )
    elif settings.token:
        reach = "everybody on the network can reach it, and needs the token"
    else:
        reach = "everybody on the network can reach it and use it: give it a --token, and put a TLS proxy before it"
    output.say(f"Serving {settings.model} at {address}; {reach}")
    if settings.corrections:
        from tailorbird.corrections.database import locate

        kept = (
            f", their photos in {settings.photos}"
            if settings.photos
            else ", without their photos (--keep-photos keeps them)"
        )
        output.say(f"Corrections go to {locate(settings.corrections).shown}{kept}")
    # The one line for programs: a script that started us with --port 0 reads where we are.
    print(address, flush=True)


def _corrections(given: str | None, model: Path) -> str | None:
    if given is None:
        return str(model.with_suffix(".db"))
    return None if given.strip().lower() in ("off", "none", "no", "") else given


def _photos(keep: bool, folder: Path | None, url: str | None, model: Path) -> Path | None:
    """Where photos are kept; None keeps none."""
    from tailorbird.errors import SettingsError

    if not keep:
        if folder is not None:
            raise SettingsError(
                f"--photos {folder} was given without --keep-photos; photos are kept only when both are said"
            )
        return None
    if url is None:
        raise SettingsError(
            "--keep-photos needs a database of corrections; leave --corrections off out"
        )
    if folder is not None:
        return folder
    from tailorbird.corrections import default_photos

    return default_photos(url) or model.with_suffix(".photos")


def _split(values: list[str] | None) -> list[str]:
    """Repeated options, and lists with commas as environment variables have them."""
    return [part.strip() for value in values or [] for part in value.split(",") if part.strip()]
