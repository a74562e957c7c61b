"""`tailorbird explain`: write pictures that show which parts of a photo support a class."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailorbird.cli import output
from tailorbird.cli.options import (
    FollowLinksOption,
    ImagesArgument,
    JsonLinesOption,
    ModelArgument,
    on_device,
)
from tailorbird.cli.partitions import FAILURES_EXIT_CODE
from tailorbird.cli.predict import print_failure, print_json_line
from tailorbird.cli.sources import sources

if TYPE_CHECKING:
    from tailorbird.explanation import Explanation

_LONGEST = 80
_LONGEST_BYTES = 230
"""Maximum characters, and bytes in UTF-8, of a photo's name in its picture's name.

File systems allow names of 255 bytes; `-2.explained.png` follows.
"""


@on_device
def explain(
    model: ModelArgument,
    photos: ImagesArgument,
    target: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for the pictures, or a .png file for a single one."
        ),
    ] = Path(),
    top: Annotated[int, typer.Option(help="Number of most probable classes, 1 to 3.")] = 3,
    label: Annotated[
        str | None,
        typer.Option(
            "--class", help="Class to explain; it must be among the three most probable ones."
        ),
    ] = None,
    alpha: Annotated[
        float, typer.Option(help="Opacity of the heat map at its maximum, 0 to 1.")
    ] = 0.75,
    follow_links: FollowLinksOption = False,
    json: JsonLinesOption = False,
) -> None:
    """Show which parts of a photo support a class.

    Writes the photo and its heat maps side by side, as NAME.explained.png. Photos that cannot be
    used are reported, and the others are explained. Exits 3 if any photo could not be used.
    """
    from tailorbird.explanation import explain_many
    from tailorbird.model import Failure

    found = list(sources(photos, follow_links)[0])
    folder, name = _target(target, len(found))
    _check(model, photos, folder / (name or "photo.explained.png"))
    originals = {Path(photo).resolve() for photo in found if isinstance(photo, str | Path)}
    names = _Names(folder, originals)
    failures = 0
    with output.ProgressBar() as progress:
        progress.stage("explain", len(found))
        results = explain_many(model, found, top=top, label=label, alpha=alpha)
        for done, result in enumerate(results, start=1):
            if isinstance(result, Failure):
                failures += 1
                print_failure(result)
                if json:
                    print_json_line(result)
            else:
                _write(result, folder / name if name else names.of(result.path), json=json)
            if len(found) > 1:
                progress.advance(done, len(found))
    if failures and len(found) > 1:
        output.say(f"{failures} of {len(found)} photos could not be explained")
    raise typer.Exit(FAILURES_EXIT_CODE if failures else 0)


def _target(target: Path, count: int) -> tuple[Path, str | None]:
    """Return the folder of the pictures, and the name of a single one. Raises SettingsError."""
    from tailorbird.errors import SettingsError

    if target.suffix.lower() == ".png" and not target.is_dir():
        if count != 1:
            raise SettingsError(
                f"{target} is one file for {count} photos; give a folder: -o {target.stem}"
            )
        return target.parent, target.name
    if target.exists() and not target.is_dir():
        raise SettingsError(
            f"{target} is neither a folder nor a .png file; pictures are written as PNG"
        )
    return target, None


def _check(model: Path, photos: list[str], picture: Path) -> None:
    """Raise SettingsError for a picture that would be one of the inputs or lie among them."""
    from tailorbird.validation import Problems

    read: dict[str, str | Path | None] = {"model": model}
    read |= {f"input {name}": name for name in photos if name != "-"}
    with Problems() as problems:
        problems.overlaps({"picture": picture}, inputs=read)


class _Names:
    """Unique names of pictures in one folder, none of them that of a photo."""

    def __init__(self, folder: Path, originals: set[Path]) -> None:
        self._folder = folder
        self._originals = originals
        self._used: set[str] = set()

    def of(self, path: str | None) -> Path:
        """Return NAME.explained.png for a photo, NAME-2.explained.png for a second of that name."""
        stem = output.printable(Path(path).stem) if path else "photo"
        stem = "".join(sign if sign not in '/\\:*?"<>|' else "_" for sign in stem)
        stem = stem[:_LONGEST].encode()[:_LONGEST_BYTES].decode(errors="ignore")
        stem = stem.strip(". ") or "photo"
        number = 1
        while True:
            name = f"{stem}{f'-{number}' if number > 1 else ''}.explained.png"
            # Some file systems ignore case.
            is_photo = (self._folder / name).resolve() in self._originals
            if name.casefold() not in self._used and not is_photo:
                self._used.add(name.casefold())
                return self._folder / name
            number += 1


def _write(result: Explanation, picture: Path, *, json: bool) -> None:
    from tailorbird.files import write_bytes

    buffer = io.BytesIO()
    result.image.save(buffer, "PNG", compress_level=2)  # a tenth larger and three times as fast
    write_bytes(picture, buffer.getvalue())
    if json:
        print_json_line(result, picture=output.printable(str(picture)))
        return
    found = result.prediction
    answer = f"{found.verdict}{found.label} {found.probability:.1%}"
    print("\t".join(map(output.printable, (result.path or "-", answer, str(picture)))), flush=True)
