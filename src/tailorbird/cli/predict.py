"""`tailorbird predict`: photos in, labels out, as they come."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli import output

if TYPE_CHECKING:
    from tailorbird.model import Failure, Prediction, Source

FAILURES_EXIT_CODE = 3


def predict(
    model: Annotated[Path, typer.Argument(help="A model file made by `tailorbird train`.")],
    photos: Annotated[
        list[str],
        typer.Argument(
            help="Photos, folders, globs; - reads paths, or one photo, from standard input."
        ),
    ],
    top: Annotated[int, typer.Option(help="How many classes to show for each photo.", min=1)] = 3,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line, as results come.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, as results come.")] = False,
    follow_links: output.FollowLinks = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Classify photos. Bad ones are named on standard error and the rest go on; exits 3 when there were any."""
    from tailorbird.errors import SettingsError
    from tailorbird.model import Classifier, Failure

    if json and as_csv:
        raise SettingsError("--json and --csv were both given; choose one")
    classifier = Classifier(model)
    given = sources(photos, follow_links)
    total = len(given) if isinstance(given, list) else None
    printer = _json_line if json else _csv_rows(top) if as_csv else _text_rows()
    failures = 0
    with output.ProgressBar() as progress:
        progress.stage("predict", total)
        for done, result in enumerate(classifier.stream(given, top=top), start=1):
            if isinstance(result, Failure):
                failures += 1
                output.complain(f"{result.path or 'standard input'}: {result.error}")
            printer(result)
            if total != 1:
                progress.advance(done, total or done)
    if failures and not quiet:
        output.say(f"{failures} of {done} photos could not be used")
    raise typer.Exit(FAILURES_EXIT_CODE if failures else 0)


def sources(given: list[str], follow_links: bool = False) -> list[Source] | Iterator[Source]:
    """Return the photos that command line arguments name; standard input is read as needed."""
    if given == ["-"]:
        return _standard_input(follow_links)
    found: list[Source] = []
    for name in given:
        found.extend(_standard_input(follow_links) if name == "-" else _expand(name, follow_links))
    return found


def _expand(name: str, follow_links: bool) -> Iterator[Path]:
    """Yield the photos of one argument: a photo, a folder, or a glob the shell did not expand."""
    from tailorbird.errors import DatasetError

    path = Path(name)
    if not name:
        raise DatasetError(
            "an empty name was given; name a photo or a folder, or . for the current one"
        )
    try:
        is_folder = path.is_dir()
        matches = (
            sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
            if _is_pattern(path)
            else []
        )
    except (OSError, ValueError):
        is_folder, matches = False, []  # too long, or not permitted: opening it will say which
    if is_folder:
        yield from _photos_of(path, follow_links)
    elif any(sign in name for sign in "*?[") and not matches and not _exists(path):
        raise DatasetError(f"nothing matches {name}")
    elif matches:
        for match in matches:
            yield from _photos_of(match, follow_links) if match.is_dir() else [match]
    else:
        yield path


def _photos_of(folder: Path, follow_links: bool) -> list[Path]:
    """List the files of a folder that `scan` would open too. Raises DatasetError for none."""
    from tailorbird.dataset.layout import photo_paths
    from tailorbird.errors import DatasetError

    found, findings = photo_paths(folder, follow_links=follow_links)
    for finding in findings:
        output.complain(f"warning: {folder}: {finding.message}")
    if not found:
        raise DatasetError(f"{folder} holds no photos, or only documents and hidden files")
    return found


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return True  # it cannot be looked at; opening it will say why


def _is_pattern(path: Path) -> bool:
    return any(sign in str(path) for sign in "*?[") and not path.exists()


def _standard_input(follow_links: bool) -> Iterator[Source]:
    """Yield one photo's bytes if standard input starts like a photo, else a path for each line."""
    from tailorbird.errors import DatasetError
    from tailorbird.images import starts_like_a_photo

    head = sys.stdin.buffer.peek(16)[:16] if hasattr(sys.stdin.buffer, "peek") else b""
    if starts_like_a_photo(head):
        yield sys.stdin.buffer.read()
        return
    for line in sys.stdin.buffer:
        name = line.rstrip(b"\r\n").decode(sys.getfilesystemencoding(), "surrogateescape")
        if not name:
            continue
        try:
            yield from _expand(name, follow_links)
        except DatasetError as error:
            # One bad line among many is reported like a bad photo, and the rest continue.
            output.complain(str(error))
            yield Path(name)


def _json_line(result: Prediction | Failure) -> None:
    said = result.as_dict()
    if said["path"] is not None:
        said["path"] = output.printable(said["path"])
    output.print_json(said)


def _text_rows() -> Callable[[Prediction | Failure], None]:
    def row(result: Prediction | Failure) -> None:
        said = result.as_dict()
        if "error" in said:
            return  # named on standard error
        others = ", ".join(
            f"{entry['label']} {entry['probability']:.1%}" for entry in said["top"][1:]
        )
        label = f"not sure: {said['label']}?" if said["unsure"] else said["label"]
        name = output.printable(said["path"] or "-")
        print(
            f"{name}\t{output.printable(label)}\t{said['probability']:.1%}\t{output.printable(others)}",
            flush=True,
        )

    return row


def _csv_rows(top: int) -> Callable[[Prediction | Failure], None]:
    def write(cells: list[Any]) -> None:
        csv.writer(sys.stdout, lineterminator="\n").writerow(
            [formula_safe(output.printable(str(cell))) for cell in cells]
        )
        sys.stdout.flush()

    ranks = [name for rank in range(2, top + 1) for name in (f"label{rank}", f"probability{rank}")]
    write(["path", "label", "probability", "unsure", *ranks, "error"])

    def row(result: Prediction | Failure) -> None:
        said = result.as_dict()
        cells: list[Any] = [said["path"] or "-"]
        if "error" in said:
            cells += [""] * (3 + len(ranks)) + [said["error"]]
        else:
            cells += [said["label"], f"{said['probability']:.6f}", str(said["unsure"]).lower()]
            for entry in said["top"][1:]:
                cells += [entry["label"], f"{entry['probability']:.6f}"]
            cells += [""] * (4 + len(ranks) - len(cells)) + [""]
        write(cells)

    return row


def formula_safe(cell: str) -> str:
    """A cell no spreadsheet takes for a formula: an apostrophe before =, +, -, @, tab and carriage return (OWASP, CSV injection)."""
    dangerous = cell.startswith(("=", "+", "-", "@", "\t", "\r")) and cell != "-"
    return f"'{cell}" if dangerous else cell
