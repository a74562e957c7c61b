"""`tailorbird predict`: classify photos, printing results as they arrive."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli import output
from tailorbird.cli.options import (
    COMMON,
    FollowLinksOption,
    ImagesArgument,
    JsonLinesOption,
    ModelArgument,
    PartitionRowsOption,
    RayOption,
    StrictOption,
    WorkersOption,
    on_device,
)
from tailorbird.cli.partitions import FAILURES_EXIT_CODE, run_job
from tailorbird.cli.sources import sources

if TYPE_CHECKING:
    from tailorbird.explanation import Explanation
    from tailorbird.model import Failure, Prediction


@on_device
def predict(
    model: ModelArgument,
    photos: ImagesArgument,
    top: Annotated[int, typer.Option(help="Number of classes to print per photo.", min=1)] = 3,
    answers: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Write Parquet files to this folder, here or in an object store, and print "
            "nothing; PHOTOS may then be manifests and addresses, as in `features`.",
        ),
    ] = None,
    follow_links: FollowLinksOption = False,
    ray: RayOption = None,
    workers: WorkersOption = None,
    partition_rows: PartitionRowsOption = 1000,
    strict: StrictOption = False,
    json: JsonLinesOption = False,
    as_csv: Annotated[
        bool,
        typer.Option("--csv", help="Print CSV as results arrive.", rich_help_panel=COMMON),
    ] = False,
) -> None:
    """Classify photos.

    Photos that cannot be used are reported on standard error, and the others are classified. Exits
    3 if any photo could not be used. With --output, each partition of the photos becomes one
    Parquet file, and a run that was interrupted is resumed at the partitions that are missing.
    """
    from tailorbird.errors import SettingsError
    from tailorbird.model import Classifier, Failure

    if as_csv and (json or answers is not None):
        other = "--json" if json else "--output"
        raise SettingsError(f"{other} and --csv were both given; choose one")
    if answers is not None or ray is not None or workers is not None:
        from tailorbird.cluster.partitions import Job
        from tailorbird.cluster.running import RaySettings
        from tailorbird.cluster.work import Predict

        where = RaySettings(ray, workers)
        job = Job(tuple(photos), answers or "", partition_rows, follow_links)
        run_job(job, Predict.of(model, top=top, strict=strict), where, json=json)
    classifier = Classifier(model, strict=strict)
    given, total = sources(photos, follow_links)
    print_one = print_json_line if json else _csv_printer(top) if as_csv else _print_text
    failures = 0
    with output.ProgressBar() as progress:
        progress.stage("predict", total)
        for done, result in enumerate(classifier.stream(given, top=top), start=1):
            if isinstance(result, Failure):
                failures += 1
                print_failure(result)
            print_one(result)
            if total != 1:
                progress.advance(done, total or done)
    if failures:
        output.say(f"{failures} of {done} photos could not be used")
    raise typer.Exit(FAILURES_EXIT_CODE if failures else 0)


def print_failure(failure: Failure) -> None:
    """Print which photo cannot be used, and why."""
    output.print_error(f"{failure.path or 'standard input'}: {failure.error}")


def print_json_line(result: Prediction | Failure | Explanation, **more: Any) -> None:
    """Print a result as one JSON object; paths that are not UTF-8 are printed as text."""
    fields = {**result.as_dict(), **more}
    if fields["path"] is not None:
        fields["path"] = output.printable(fields["path"])
    output.print_json(fields)


def _print_text(result: Prediction | Failure) -> None:
    from tailorbird.model.prediction import UNFAMILIAR

    fields = result.as_dict()
    if "error" in fields:
        return  # it is on standard error
    ranked = [f"{one['label']} {one['probability']:.1%}" for one in fields["top"]]
    if fields["unfamiliar"]:
        answer, others = (UNFAMILIAR, "-"), ranked
    else:
        label = f"not sure: {fields['label']}?" if fields["unsure"] else fields["label"]
        answer, others = (label, f"{fields['probability']:.1%}"), ranked[1:]
    cells = (fields["path"] or "-", *answer, ", ".join(others))
    print("\t".join(map(output.printable, cells)), flush=True)


def _csv_printer(top: int) -> Callable[[Prediction | Failure], None]:
    """Print the header, and return a function that prints one row."""
    from tailorbird.files import csv_text

    def write(cells: list[Any]) -> None:
        sys.stdout.write(csv_text([[output.printable(str(cell)) for cell in cells]]))
        sys.stdout.flush()

    ranks = [name for rank in range(2, top + 1) for name in (f"label{rank}", f"probability{rank}")]
    write(["path", "label", "probability", "unsure", *ranks, "error", "unfamiliar"])

    def row(result: Prediction | Failure) -> None:
        fields = result.as_dict()
        cells: list[Any] = [fields["path"] or "-"]
        if "error" in fields:
            cells += [""] * (3 + len(ranks)) + [fields["error"], ""]
        else:
            cells += [fields["label"], f"{fields['probability']:.6f}"]
            cells.append(str(fields["unsure"]).lower())
            for one in fields["top"][1:]:
                cells += [one["label"], f"{one['probability']:.6f}"]
            cells += [""] * (5 + len(ranks) - len(cells))
            cells.append(str(fields["unfamiliar"]).lower())
        write(cells)

    return row
