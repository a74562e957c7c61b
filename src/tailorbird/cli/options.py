"""Options and arguments that several commands share, and the layout of their help."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from tailorbird.cli import output

DEFAULT_BACKBONE = "lite"
"""Name of the default backbone; repeated here because importing the catalogue takes time."""

DATA = "Reading the photos"
HEAD = "Head"
FINETUNING = "Fine-tuning"
REPORT = "Report"
CLUSTER = "Cluster"
COMMON = "Output and messages"
"""Sections of a command's help; options without one are listed under `Options`."""

PhotosArgument = Annotated[
    Path,
    typer.Argument(
        metavar="PHOTOS",
        help="Class folders, split/class folders, or a CSV with the columns path,label[,split].",
    ),
]
ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="Model file written by `tailorbird train`.")
]
ImagesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="PHOTOS",
        help="Photos, folders and globs; - reads paths, or one photo, from standard input.",
    ),
]
SourcesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="PHOTOS",
        help="Folders, photos, CSV or Parquet files with a column path, and addresses such as "
        "s3://shop/photos or gs://shop/photos.",
    ),
]
FollowLinksOption = Annotated[
    bool,
    typer.Option(
        "--follow-links", help="Also read files outside a folder, through links inside it."
    ),
]
BackboneOption = Annotated[
    str,
    typer.Option(
        help="Backbone: a name listed by `tailorbird backbones`, or an .onnx file; several, such "
        "as lite,pocket, put their features side by side."
    ),
]
MirrorOption = Annotated[
    bool,
    typer.Option(
        "--mirror",
        help="Average the features of each photo with those of the mirrored photo; prediction runs "
        "the backbone twice.",
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(help="Split to score; by default test if there is one, else all photos."),
]
AllOption = Annotated[
    bool,
    typer.Option(
        "--all", help="Also use photos that the model has seen: those it was trained or chosen on."
    ),
]
PictureOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Write a chart: .svg, .png, or .html with the findings as text."
    ),
]
ContactSheetOption = Annotated[
    Path | None, typer.Option(help="Write a contact sheet of these photos (.png or .jpg).")
]
InnerOption = Annotated[
    str, typer.Option(help="Inner layers: 0 for none, 100 for one, 100x50 for two.")
]
DropoutOption = Annotated[float, typer.Option(help="Dropout, 0 to below 1.")]
L2Option = Annotated[float, typer.Option(help="Strength of the L2 penalty.")]
FoldsOption = Annotated[int, typer.Option(help="Number of folds of the cross-validation.")]
RepeatsOption = Annotated[
    int, typer.Option(help="Number of repeats, each with other folds and initial weights.")
]
SplitSeedOption = Annotated[
    int, typer.Option(help="Seed of the split (as in `train`), the folds and the fits.")
]
ReportOption = Annotated[
    Path | None,
    typer.Option(
        "--report",
        help="File of the report, which contains photos; by default beside the model.",
        rich_help_panel=REPORT,
    ),
]
NoReportOption = Annotated[
    bool, typer.Option("--no-report", help="Write no report.", rich_help_panel=REPORT)
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        help="Format of the report: html, markdown (a model card) or json (the numbers).",
        rich_help_panel=REPORT,
    ),
]
StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Fail, not warn, if the model gives other answers on this device than where it was "
        "made.",
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Work on a Ray cluster (needs the extra `ray`): alone, one that is started on this "
        "machine for this command; auto, the one that runs here; or HOST:PORT.",
        rich_help_panel=CLUSTER,
    ),
]
"""Address of the cluster; None without the option."""
WorkersOption = Annotated[
    int | None,
    typer.Option(
        help="Number of workers of the cluster; by default one for each of its cores.",
        rich_help_panel=CLUSTER,
    ),
]
PartitionRowsOption = Annotated[
    int,
    typer.Option(help="Photos in a partition, 1 to 100000.", rich_help_panel=CLUSTER),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON object on standard output.", rich_help_panel=COMMON
    ),
]
JsonLinesOption = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON object per line as results arrive.", rich_help_panel=COMMON
    ),
]


class Command(TyperCommand):
    """A command whose help lists the options in sections, without importing rich."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, where `--ray` may stand without an address."""
        return super().parse_args(ctx, _with_addresses(args) if "--ray" in args else args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for the arguments and one for each panel, in order of appearance."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            panel = getattr(parameter, "rich_help_panel", None)
            if parameter.param_type_name == "argument":
                panel = "Arguments"
            elif parameter.name == "help":
                panel = COMMON
            if record is not None:
                sections.setdefault(panel or "Options", []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _with_addresses(args: list[str]) -> list[str]:
    """Return the arguments with `--ray=ADDRESS` for `--ray ADDRESS`, and for `--ray` alone."""
    from tailorbird.cluster.connection import LOCAL, is_address

    end = args.index("--") if "--" in args else len(args)
    result: list[str] = []
    position = 0
    while position < end:
        one, position = args[position], position + 1
        if one == "--ray":
            address = LOCAL
            if position < end and is_address(args[position]):
                address, position = args[position], position + 1
            one = f"--ray={address}"
        result.append(one)
    return result + args[end:]


def common(function: Callable[..., None]) -> Callable[..., None]:
    """Add --quiet, --verbose and --debug to a command; `output.STATE` holds their values."""

    @functools.wraps(function)
    def command(*, quiet: bool, verbose: bool, debug: bool, **values: Any) -> None:
        output.set_verbosity(quiet=quiet, verbose=verbose, debug=debug)
        function(**values)

    signature = inspect.signature(function, eval_str=True)
    parameters = [*signature.parameters.values(), *_COMMON]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


def on_device(function: Callable[..., None]) -> Callable[..., None]:
    """Add --device and --half to a command: where the models run that it opens."""

    @functools.wraps(function)
    def command(*, device: str | None, half: bool, **values: Any) -> None:
        if device is None and not half:
            return function(**values)
        from tailorbird.inference import use_device

        with use_device(device, half=half):
            return function(**values)

    return _with_options(command, function, _DEVICE)


def reads_photos(function: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `data`, a DataSettings, by an option for each of its fields."""

    @functools.wraps(function)
    def command(
        *,
        split_names: str | None,
        near_duplicates: str,
        group_by: str | None,
        follow_links: bool,
        **values: Any,
    ) -> None:
        from tailorbird.dataset import DataSettings

        choice: Any = near_duplicates  # DataSettings checks it
        data = DataSettings(split_names, choice, group_by, follow_links)
        function(data=data, **values)

    return _with_options(command, function, _DATA, without="data")


def _with_options(
    command: Callable[..., None],
    function: Callable[..., None],
    added: Iterable[inspect.Parameter],
    *,
    without: str = "",
) -> Callable[..., None]:
    """Give a command the parameters of a function, but for one, and added ones before --json."""
    signature = inspect.signature(function, eval_str=True)
    kept = [one for one in signature.parameters.values() if one.name != without]
    end = next((i for i, one in enumerate(kept) if one.name == "json"), len(kept))
    after = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in kept[end:]]
    parameters = [*kept[:end], *added, *after]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


def _data_option(name: str, default: Any, kind: Any, *decls: str, text: str) -> inspect.Parameter:
    option = typer.Option(*decls, help=text, rich_help_panel=DATA)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


_DATA = (
    _data_option(
        "split_names",
        None,
        str | None,
        "--split-names",
        text="Which folders are splits, such as Fold1=train,Fold2=test, or none; by default "
        "folders with usual names, such as train, val and test.",
    ),
    _data_option(
        "near_duplicates",
        "group",
        str,
        "--near-duplicates",
        text="Nearly identical photos: group keeps them on one side of every split, keep treats "
        "them as different photos, drop keeps one of them.",
    ),
    _data_option(
        "group_by",
        None,
        str | None,
        "--group-by",
        text="Regular expression such as (patient[0-9]+)_; photos with the same matched text stay "
        "on one side of every split.",
    ),
    _data_option(
        "follow_links",
        False,
        bool,
        "--follow-links",
        text="Also read files outside the dataset, through links inside it.",
    ),
)


DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Where to run the model: auto (the default: the fastest with the right answers), cpu, "
        "cuda, cuda:1, openvino, coreml, directml and so on; see `tailorbird doctor`.",
    ),
]
HalfOption = Annotated[
    bool, typer.Option("--half", help="Compute in float16, on a device that can.")
]
_DEVICE = (
    inspect.Parameter(
        "device", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=DeviceOption
    ),
    inspect.Parameter("half", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=HalfOption),
)


def _flag(name: str, *decls: str, text: str) -> inspect.Parameter:
    option = typer.Option(*decls, help=text, rich_help_panel=COMMON)
    annotation = Annotated[bool, option]
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=False, annotation=annotation)


_COMMON = (
    _flag("quiet", "--quiet", "-q", text="Print results and errors only."),
    _flag("verbose", "--verbose", "-v", text="Print more details."),
    _flag("debug", "--debug", text="Show tracebacks and log messages."),
)
