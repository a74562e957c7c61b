"""`tailorbird serve`: serve a model as an upload page and an HTTP API."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailorbird.cli import output
from tailorbird.cli.options import CLUSTER, DeviceOption, HalfOption, RayOption
from tailorbird.cli.secrets import secret_from

if TYPE_CHECKING:
    from tailorbird.service import ServeSettings


_Model = Annotated[
    Path,
    typer.Argument(
        envvar="TAILORBIRD_MODEL",
        metavar="MODEL",
        help="Model file written by `tailorbird train`.",
    ),
]
_Host = Annotated[
    str,
    typer.Option(envvar="TAILORBIRD_HOST", help="Address to listen on; 0.0.0.0: all networks."),
]
_Port = Annotated[int, typer.Option(envvar="TAILORBIRD_PORT", help="Port; 0: a free one.")]
_Workers = Annotated[
    int,
    typer.Option(envvar="TAILORBIRD_WORKERS", help="Number of processes; they share the cores."),
]
_Token = Annotated[
    str | None,
    typer.Option(
        envvar="TAILORBIRD_TOKEN",
        show_envvar=True,
        help="Bearer token that API requests must send.",
    ),
]
_TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="TAILORBIRD_TOKEN_FILE",
        help="File with the token, such as a mounted secret.",
    ),
]
_Corrections = Annotated[
    str | None,
    typer.Option(
        envvar="TAILORBIRD_CORRECTIONS",
        help="Database of corrections: a path, a postgresql:// URL, or off; by default shop.db "
        "beside shop.onnx.",
    ),
]
_CorrectionsFile = Annotated[
    Path | None,
    typer.Option(
        envvar="TAILORBIRD_CORRECTIONS_FILE",
        help="File with the value of --corrections, such as a mounted secret.",
    ),
]
_KeepPhotos = Annotated[
    bool,
    typer.Option(
        "--keep-photos/--no-keep-photos",
        envvar="TAILORBIRD_KEEP_PHOTOS",
        help="Keep the photos that people correct, to train on them.",
    ),
]
_Photos = Annotated[
    Path | None,
    typer.Option(
        envvar="TAILORBIRD_PHOTOS",
        help="Folder for kept photos; by default shop.photos beside shop.db.",
    ),
]
_NewClasses = Annotated[
    bool,
    typer.Option(
        "--new-classes/--no-new-classes",
        envvar="TAILORBIRD_NEW_CLASSES",
        help="Take corrections that name a class which the model lacks.",
    ),
]
_AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        envvar="TAILORBIRD_ALLOW_HOSTS",
        help="Host name of the service behind a proxy; can be repeated.",
    ),
]
_AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(
        envvar="TAILORBIRD_ALLOW_ORIGINS",
        help="Site whose pages may call the API, such as https://shop.example; can be repeated.",
    ),
]
_FrameAncestor = Annotated[
    list[str] | None,
    typer.Option(
        envvar="TAILORBIRD_FRAME_ANCESTORS",
        help="Site whose pages may show this one in a frame: https://portal.example.",
    ),
]
_Page = Annotated[
    Path | None,
    typer.Option(
        envvar="TAILORBIRD_PAGE",
        help="TOML file with the page's title, logo, language, accent colour, links and names of "
        "classes.",
    ),
]
_Candidate = Annotated[
    Path | None,
    typer.Option(
        envvar="TAILORBIRD_CANDIDATE",
        help="Another model file, which runs on the same photos without answering; the dashboard "
        "compares both.",
    ),
]
_MaxMegabytes = Annotated[
    float,
    typer.Option(
        envvar="TAILORBIRD_MAX_MEGABYTES",
        help="Maximum size of a request in MiB.",
        min=0.01,
        max=512,
    ),
]
_MaxMegapixels = Annotated[
    float,
    typer.Option(
        envvar="TAILORBIRD_MAX_MEGAPIXELS",
        help="Maximum size of a photo in megapixels; half of it for WebP and AVIF.",
        min=0.01,
        max=1000,
    ),
]
_Queue = Annotated[
    int,
    typer.Option(
        envvar="TAILORBIRD_QUEUE",
        help="Maximum number of waiting photos per process; further ones are refused.",
    ),
]
_Batch = Annotated[
    int | None,
    typer.Option(
        envvar="TAILORBIRD_BATCH",
        help="Maximum inference batch size; by default the device's, 2 on the CPU.",
    ),
]
_Deadline = Annotated[
    float,
    typer.Option(envvar="TAILORBIRD_DEADLINE", help="Maximum duration of a request in seconds."),
]
_Drain = Annotated[
    float,
    typer.Option(
        envvar="TAILORBIRD_DRAIN",
        help="Seconds between SIGTERM and closing the socket, for load balancers.",
    ),
]
_Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        envvar="TAILORBIRD_STRICT",
        help="Refuse, not warn of, a model that gives other answers on this device than where it "
        "was made.",
    ),
]
_MinReplicas = Annotated[
    int | None,
    typer.Option(
        envvar="TAILORBIRD_MIN_REPLICAS",
        help="Lowest number of replicas on the cluster; by default 1.",
        rich_help_panel=CLUSTER,
    ),
]
_MaxReplicas = Annotated[
    int | None,
    typer.Option(
        envvar="TAILORBIRD_MAX_REPLICAS",
        help="Highest number of replicas; by default one for each GPU of the cluster, else for "
        "each core.",
        rich_help_panel=CLUSTER,
    ),
]


def serve(
    model: _Model,
    host: _Host = "127.0.0.1",
    port: _Port = 8000,
    workers: _Workers = 1,
    token: _Token = None,
    token_file: _TokenFile = None,
    corrections: _Corrections = None,
    corrections_file: _CorrectionsFile = None,
    keep_photos: _KeepPhotos = False,
    photos: _Photos = None,
    new_classes: _NewClasses = True,
    allow_host: _AllowHost = None,
    allow_origin: _AllowOrigin = None,
    frame_ancestor: _FrameAncestor = None,
    page: _Page = None,
    candidate: _Candidate = None,
    max_megabytes: _MaxMegabytes = 20,
    max_megapixels: _MaxMegapixels = 50,
    queue: _Queue = 64,
    batch: _Batch = None,
    deadline: _Deadline = 30,
    drain: _Drain = 1,
    strict: _Strict = False,
    device: DeviceOption = None,
    half: HalfOption = False,
    ray: RayOption = None,
    min_replicas: _MinReplicas = None,
    max_replicas: _MaxReplicas = None,
) -> None:
    """Serve a model as a web page and an HTTP API.

    The upload page is at /, the API under /v1 and /v2 (documentation at /docs), metrics at
    /metrics. Ctrl-C ends it.
    """
    from tailorbird import service

    token = secret_from("token", token, token_file)
    database, folder = service.storage_for(
        model,
        secret_from("corrections", corrections, corrections_file),
        keep_photos=keep_photos,
        photos=photos,
    )
    settings = service.ServeSettings(
        model=model,
        host=host,
        port=port,
        workers=workers,
        token=token or None,
        corrections=database,
        photos=folder,
        new_classes=new_classes,
        allow_hosts=tuple(_split(allow_host)),
        allow_origins=tuple(_split(allow_origin)),
        frame_ancestors=tuple(_split(frame_ancestor)),
        page=service.read_page(page),
        candidate=candidate,
        max_body=int(max_megabytes * 2**20),
        max_pixels=int(max_megapixels * 1e6),
        queue=queue,
        batch=batch,
        deadline=deadline,
        drain=drain,
        strict=strict,
        device=device,
        half=half,
    )

    def announce(address: str) -> None:
        _announce(settings, address)

    if ray is None and min_replicas is None and max_replicas is None:
        service.serve(settings, announce=announce, quiet=output.STATE.quiet)
        return
    from tailorbird.cluster import serving

    replicas = serving.Replicas(ray, 1 if min_replicas is None else min_replicas, max_replicas)
    serving.serve(settings, replicas, announce=announce, quiet=output.STATE.quiet)


def _announce(settings: ServeSettings, address: str) -> None:
    """Print the address, who can reach it, and what is stored."""
    if settings.is_loopback:
        reach = (
            "only programs on this machine can reach it (--host 0.0.0.0 opens it to the network)"
        )
    elif settings.token:
        reach = "everybody on the network can reach it, and needs the token"
    else:
        reach = (
            "everybody on the network can reach and use it: set a --token, and put a TLS proxy "
            "before it"
        )
    _tell(f"Serving {settings.model} at {address}; {reach}")
    if settings.corrections:
        from tailorbird.corrections.database import locate

        kept = (
            f", their photos in {settings.photos}"
            if settings.photos
            else ", without their photos (--keep-photos keeps them)"
        )
        _tell(f"Corrections are stored in {locate(settings.corrections).shown}{kept}")
    if settings.candidate:
        _tell(f"{settings.candidate} runs on the same photos without answering; see /dashboard")
    # The only line on standard output: programs read the address from it.
    print(address, flush=True)


def _tell(text: str) -> None:
    """Print a line for a person at a terminal; elsewhere log it, as every line of a log is JSON."""
    from tailorbird.service.web.logs import log

    if sys.stderr.isatty():
        output.say(text)
    else:
        log("serving", message=text)


def _split(values: list[str] | None) -> list[str]:
    """Return the values of a repeated option, or of a list with commas in a variable."""
    return [part.strip() for value in values or [] for part in value.split(",") if part.strip()]
