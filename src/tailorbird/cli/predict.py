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
_PHOTO_LIKE = frozenset(
    {
        ".svg",
        ".tif",
        ".tiff",
        ".heic",
        ".heif",
        ".jxl",
        ".jp2",
        ".psd",
        ".ico",
        ".raw",
        ".dng",
        ".cr2",
        ".nef",
    }
)
"""Names in a folder that somebody may take for photos: they are tried, so that their refusal is seen."""


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
    given = sources(photos)
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


def sources(given: list[str]) -> list[Source] | Iterator[Source]:
    """What was named on the command line as photos; standard input is read as needed."""
    if given == ["-"]:
        return _standard_input()
    found: list[Source] = []
    for name in given:
        found.extend(_standard_input() if name == "-" else _expand(name))
    return found


def _expand(name: str) -> Iterator[Path]:
    """One argument: a photo, a folder (searched through), or a glob the shell did not expand."""
    from tailorbird.errors import DatasetError
    from tailorbird.images import EXTENSIONS

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

        def wanted(file: Path) -> bool:
            if file.name.startswith(".") or file.is_dir():
                return False
            suffix = file.suffix.lower()
            return (
                suffix in EXTENSIONS
                or suffix in _PHOTO_LIKE
                or (not suffix and _photo_without_a_suffix(file))
            )

        found = [file for file in sorted(path.rglob("*")) if wanted(file)]
        if not found:
            raise DatasetError(
                f"{path} holds no photos; looked for {', '.join(sorted(EXTENSIONS))}"
            )
        yield from found
    elif any(sign in name for sign in "*?[") and not matches and not _exists(path):
        raise DatasetError(f"nothing matches {name}")
    elif matches:
        for match in matches:
            yield from _expand(str(match)) if match.is_dir() else [match]
    else:
        yield path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return True  # it cannot be looked at; opening it will say why


def _is_pattern(path: Path) -> bool:
    return any(sign in str(path) for sign in "*?[") and not path.exists()


def _photo_without_a_suffix(file: Path) -> bool:
    """Whether a file without a suffix (a content hash for a name, say) holds a photo."""
    from tailorbird.images import starts_like_a_photo

    try:
        with file.open("rb") as opened:
            return starts_like_a_photo(opened.read(16))
    except OSError:
        return False


def _standard_input() -> Iterator[Source]:
    """One photo's bytes when standard input starts like a photo, else a path on each line."""
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
            yield from _expand(name)
        except DatasetError as error:
            # One bad line among many: named, like a bad photo, and the rest go on.
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
