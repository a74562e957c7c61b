"""`tailorbird explain`: photos in, pictures out that show what speaks for a class."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailorbird.cli import output
from tailorbird.cli.predict import FAILURES_EXIT_CODE, sources

if TYPE_CHECKING:
    from tailorbird.explanation import Explanation

_LONGEST = 80
"""Characters of a photo's name kept in its picture's: 80 take at most 240 of the 255 bytes a name may have."""


def explain(
    model: Annotated[Path, typer.Argument(help="A model file made by `tailorbird train`.")],
    photos: Annotated[
        list[str],
        typer.Argument(
            help="Photos, folders, globs; - reads paths, or one photo, from standard input."
        ),
    ],
    target: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="A folder for the pictures, or a .png file for a single one."
        ),
    ] = Path(),
    top: Annotated[
        int, typer.Option(help="How many of the most probable classes to show, 1 to 3.")
    ] = 3,
    label: Annotated[
        str | None,
        typer.Option(
            "--class", help="Show this class, which must be among the three most probable."
        ),
    ] = None,
    alpha: Annotated[
        float, typer.Option(help="How much of the photo the hottest place covers, 0 to 1.")
    ] = 0.75,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line, as results come.")
    ] = False,
    follow_links: output.FollowLinks = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    debug: output.Debug = False,
) -> None:
    """Show which places of a photo speak for a class: the photo and its heat maps side by side, as NAME.explained.png.

    Bad photos are named and the rest go on; exits 3 when there were any.
    """
    from tailorbird.errors import SettingsError
    from tailorbird.explanation import explain_many
    from tailorbird.model import Failure
    from tailorbird.validation import Problems

    found = list(sources(photos, follow_links))
    if target.suffix.lower() == ".png" and not target.is_dir():
        if len(found) != 1:
            raise SettingsError(
                f"{target} is one file for {len(found)} photos; give a folder: -o {target.stem}"
            )
        folder, fixed = target.parent, target.name
    elif target.exists() and not target.is_dir():
        raise SettingsError(
            f"{target} is neither a folder nor a .png file; pictures are written as PNG"
        )
    else:
        folder, fixed = target, None
    with Problems() as problems:
        # A picture's name follows from its photo's; only that it is a picture counts here.
        picture = folder / (fixed or "photo.explained.png")
        read: dict[str, str | Path | None] = {"model": model}
        read |= {f"input {name}": name for name in photos if name != "-"}
        problems.overlaps({"picture": picture}, inputs=read)
    originals = {Path(photo).resolve() for photo in found if isinstance(photo, str | Path)}
    names = _Names(folder, originals)
    failures = 0
    with output.ProgressBar() as progress:
        progress.stage("explain", len(found))
        for done, result in enumerate(
            explain_many(model, found, top=top, label=label, alpha=alpha), start=1
        ):
            if isinstance(result, Failure):
                failures += 1
                output.complain(f"{result.path or 'standard input'}: {result.error}")
                if json:
                    output.print_json(_readable(result.as_dict()))
            else:
                picture = folder / fixed if fixed else names.of(result.path)
                _write(result, picture, json=json)
            if len(found) > 1:
                progress.advance(done, len(found))
    if failures and len(found) > 1:
        output.say(f"{failures} of {len(found)} photos could not be explained")
    raise typer.Exit(FAILURES_EXIT_CODE if failures else 0)


class _Names:
    """Names of pictures inside one folder: told apart, and never those of the photos themselves."""

    def __init__(self, folder: Path, originals: set[Path]) -> None:
        self._folder = folder
        self._originals = originals
        self._used: set[str] = set()

    def of(self, path: str | None) -> Path:
        """NAME.explained.png for a photo, NAME-2.explained.png for the next of that name."""
        stem = output.printable(Path(path).stem) if path else "photo"
        stem = (
            "".join(sign if sign not in '/\\:*?"<>|' else "_" for sign in stem)[:_LONGEST].strip(
                ". "
            )
            or "photo"
        )
        number = 1
        while True:
            name = f"{stem}{f'-{number}' if number > 1 else ''}.explained.png"
            # Some file systems take upper and lower case for the same.
            if (
                name.casefold() not in self._used
                and (self._folder / name).resolve() not in self._originals
            ):
                self._used.add(name.casefold())
                return self._folder / name
            number += 1


def _write(result: Explanation, picture: Path, *, json: bool) -> None:
    from tailorbird.files import write_bytes

    buffer = io.BytesIO()
    result.image.save(buffer, "PNG", compress_level=2)  # a tenth larger and three times as fast
    write_bytes(picture, buffer.getvalue())
    if json:
        output.print_json(_readable({**result.as_dict(), "picture": str(picture)}))
        return
    said = "not sure: " if result.prediction.unsure else ""
    answer = f"{said}{result.prediction.label} {result.prediction.probability:.1%}"
    print("\t".join(map(output.printable, (result.path or "-", answer, str(picture)))), flush=True)


def _readable(said: dict[str, object]) -> dict[str, object]:
    """Paths of bytes that are not UTF-8 as text."""
    return {
        key: output.printable(value)
        if key in ("path", "picture") and isinstance(value, str)
        else value
        for key, value in said.items()
    }
