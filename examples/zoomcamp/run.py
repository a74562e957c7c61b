"""The course's deep-learning notebooks, replayed twice: in plain Keras and with tailorbird
commands, side by side.

    python examples/zoomcamp/run.py --photos clothing-dataset-small [--network Xception]
        [--weights FILE.weights.h5] [--out FOLDER]
    python examples/zoomcamp/run.py --short

Each step runs on both sides, one after the other: the notebook's in one long-lived process, as in a
notebook's kernel (`notebook.py`), tailorbird's as whole processes (`commands.py`). A step that is
done is not run again when the command is given again; `--only STEP` runs steps anew. `--short`
draws its photos and takes a network of random weights: every step runs in a minute or two, and no
accuracy means anything.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import platform
import shlex
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from commands import CommandFailed, Place, run_step
from results import write
from steps import COURSE, FIRST_OURS, PITFALLS, epochs
from tailorbird import installing

HERE = Path(__file__).resolve().parent
GET_PHOTOS = """There are no photos at {photos}. The course's come with

    git clone https://github.com/alexeygrigorev/clothing-dataset-small

(CC0, 3,781 photos, 10 classes); then:

    python examples/zoomcamp/run.py --photos clothing-dataset-small
Or try the shortened form on drawn photos: python examples/zoomcamp/run.py --short"""
SIZES = {"Xception": (150, 299), "MobileNetV2": (150, 224), "MobileNet": (150, 224)}
PREPROCESS = {"Xception": "xception", "MobileNetV2": "mobilenet_v2", "MobileNet": "mobilenet"}


class Notebook:
    """The notebook's kernel: started with the first step that needs it, then asked for one step
    after another.
    """

    def __init__(self, python: str, plan: Path) -> None:
        self._command = [python, str(HERE / "notebook.py"), str(plan)]
        self._process: subprocess.Popen[str] | None = None

    def ask(self, step: str) -> dict[str, Any]:
        """Return a step's results. Raises CommandFailed."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            ready = self._line()
            print(
                f"notebook: Keras {ready['keras']}, imported in {ready['ready']:.1f} s (not "
                "counted)",
                file=sys.stderr,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(step + "\n")
        self._process.stdin.flush()
        found = self._line()
        if "error" in found:
            raise CommandFailed(f"notebook, {step}: {found['error']}")
        return found

    def _line(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        code, self._process = self._process.wait(), None
        raise CommandFailed(f"the notebook's process ended with {code}; what it said stands above")

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()


def draw_photos(
    folder: Path, classes: tuple[str, ...] = ("dress", "outwear", "pants", "shoes")
) -> None:
    """Draw photos in split/class folders, for the short form."""
    from tailorbird import demo

    seed = 0
    for split, count in {"train": 12, "validation": 4, "test": 4}.items():
        for label in classes:
            (folder / split / label).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                demo.draw(label, seed).image.save(
                    folder / split / label / f"{label}-{number:02d}.jpg", quality=90
                )
                seed += 1


def write_subset(path: Path, photos: Path, wanted: tuple[str, ...]) -> None:
    """A CSV of some classes' photos, each with its split.

    Takes the first classes there are where those wanted are not.
    """
    there = sorted(entry.name for entry in (photos / "train").iterdir() if entry.is_dir())
    classes = wanted if set(wanted) <= set(there) else tuple(there[: len(wanted)])
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split"])
        for split in ("train", "validation", "test"):
            for label in classes:
                rows.writerows(
                    [photo, label, split] for photo in sorted((photos / split / label).iterdir())
                )


def prepare(given: argparse.Namespace) -> tuple[dict[str, Any], Place]:
    """Photos, class lists and subsets in the folder of the run; the notebook's plan, and where
    commands run.
    """
    out = given.out.resolve()
    ours = out / "tailorbird"
    ours.mkdir(parents=True, exist_ok=True)
    (out / "results").mkdir(exist_ok=True)
    photos, weights, names = given.photos, given.weights, given.imagenet_classes
    if given.short:
        photos, weights, names = (
            out / "photos",
            out / "random.weights.h5",
            out / "imagenet_classes.csv",
        )
        if not photos.exists():
            draw_photos(photos)
        names.write_text(
            "wnid,name\n" + "".join(f"n{number:08d},thing {number}\n" for number in range(1000))
        )
    if not (photos / "train").is_dir():
        sys.exit(GET_PHOTOS.format(photos=photos))
    for file in (given.weights, given.imagenet_classes, given.photo):
        if file is not None and not file.is_file():
            sys.exit(f"{file} does not exist")
    photos = photos.resolve()
    classes = sorted(entry.name for entry in (photos / "train").iterdir() if entry.is_dir())
    (ours / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    write_subset(ours / "footwear.csv", photos, ("dress", "outwear", "shoes"))
    write_subset(ours / "homework.csv", photos, ("pants", "shoes"))
    photo = (
        given.photo
        or sorted((photos / "test" / ("pants" if "pants" in classes else classes[0])).iterdir())[0]
    )
    small, large = (64, 96) if given.short else SIZES[given.network]
    rounds = epochs(short=given.short, whole=given.all_epochs)
    plan = {
        "photos": str(photos),
        "out": str(out),
        "network": given.network,
        "weights": str(weights.resolve()) if weights else None,
        "imagenet_classes": str(names.resolve()) if names else None,
        "sizes": [small, large],
        "epochs": rounds,
        "photo": str(photo.resolve()),
        "short": given.short,
    }
    place = Place(
        ours,
        {
            "network": given.network,
            "weights": shlex.join(["--weights", plan["weights"]]) if weights else "",
            "classes": shlex.join(["--classes", plan["imagenet_classes"]]) if names else "",
            "photos": str(photos),
            "photo": plan["photo"],
            "small": str(small),
            "large": str(large),
            "notebook": "../notebook",
            "preprocess": PREPROCESS[given.network],
            "wrong": "torch",
            "fine_tune": str(1 if given.short else 2),
            "footwear": str(rounds["footwear"]),
            "homework": str(rounds["homework"]),
            "homework_both": str(2 * rounds["homework"]),
        },
        inside=given.short,
    )
    return plan, place


def restore_names(place: Place, results: Path) -> None:
    """Return backbone names from earlier steps that are not run again."""
    for step, name in (("frozen", "small_backbone"), ("larger", "large_backbone")):
        file = results / f"{step}.tailorbird.json"
        if file.exists():
            place.names[name] = Path(json.loads(file.read_text())["backbone"]).name.removesuffix(
                ".backbone.onnx"
            )


def taken(results: Path) -> float:
    """Return the seconds of the homework's last command, or 10."""
    file = results / "homework.tailorbird.json"
    return float(json.loads(file.read_text())["command_seconds"][-1]) if file.exists() else 10.0


def replay(given: argparse.Namespace) -> int:
    """Run the steps, write the results, return the exit code."""
    plan, place = prepare(given)
    results = given.out.resolve() / "results"
    file = given.out.resolve() / "plan.json"
    if file.exists() and json.loads(file.read_text()) != plan:
        sys.exit(f"{given.out} holds a run with other settings; choose another --out, or remove it")
    file.write_text(json.dumps(plan, indent=1))
    restore_names(place, results)
    notebook = Notebook(given.keras_python, file)
    wanted = [*(["weights"] if given.short else []), *COURSE, *PITFALLS]
    unknown = set(given.only) - set(wanted)
    if unknown:
        sys.exit(
            f"--only {' '.join(sorted(unknown))}: there is no such step; there are "
            f"{', '.join(wanted)}"
        )
    failed = []
    start = time.perf_counter()
    try:
        for step in wanted:
            for side in (
                ("tailorbird", "notebook") if step in FIRST_OURS else ("notebook", "tailorbird")
            ):
                kept = results / f"{step}.{side}.json"
                skip = step not in given.only if given.only else kept.exists()
                if skip or (step == "weights" and side == "tailorbird"):
                    continue
                print(
                    f"{step}, {side} ({time.perf_counter() - start:.0f} s so far)",
                    file=sys.stderr,
                    flush=True,
                )
                try:
                    found = (
                        notebook.ask(step)
                        if side == "notebook"
                        else run_step(step, place, homework_seconds=taken(results))
                    )
                except CommandFailed as error:
                    print(f"  failed: {error}", file=sys.stderr, flush=True)
                    failed.append(f"{step} ({side}): {error}")
                    kept.unlink(missing_ok=True)
                except (
                    Exception
                ) as error:  # one answer that lacks something should not cost the other steps
                    traceback.print_exc()
                    failed.append(f"{step} ({side}): {type(error).__name__}: {error}")
                    kept.unlink(missing_ok=True)
                else:
                    kept.write_text(json.dumps(found, indent=1))
    finally:
        notebook.close()
    print(write(given.out.resolve(), machine=machine()))
    print(f"Written: {given.out / 'RESULTS.md'}, {given.out / 'results.json'}", file=sys.stderr)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


def machine() -> str:
    """Return a description of the machine."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{platform.machine()}, {count} cores, {platform.system()}, Python "
        f"{platform.python_version()}"
    )


def main() -> int:
    """Parse the options and run both sides."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--photos", type=Path, default=Path("clothing-dataset-small"), help="folders split/class"
    )
    options.add_argument(
        "--network", choices=sorted(SIZES), help="default: Xception; MobileNet with --short"
    )
    options.add_argument(
        "--weights",
        type=Path,
        help="the network's ImageNet weights; Keras downloads them when not given",
    )
    options.add_argument(
        "--imagenet-classes",
        type=Path,
        help="CSV with a column `name`, 1000 rows; Keras downloads its own",
    )
    options.add_argument(
        "--photo", type=Path, help="the photo that is named; by default one of the test split"
    )
    options.add_argument(
        "--out",
        type=Path,
        default=Path("zoomcamp-replayed"),
        help="folder for everything that is written",
    )
    options.add_argument(
        "--short", action="store_true", help="drawn photos, random weights, one epoch"
    )
    options.add_argument(
        "--all-epochs", action="store_true", help="as many epochs as the notebooks: hours on a CPU"
    )
    options.add_argument(
        "--only", nargs="+", default=[], metavar="STEP", help="run these steps anew, and no others"
    )
    options.add_argument(
        "--keras-python", default=sys.executable, help="interpreter of the notebook's side"
    )
    given = options.parse_args()
    given.network = given.network or ("MobileNet" if given.short else "Xception")
    if given.keras_python == sys.executable and importlib.util.find_spec("tensorflow") is None:
        sys.exit(f"The notebook's side needs Keras on TensorFlow: {installing.install('keras')}")
    return replay(given)


if __name__ == "__main__":
    sys.exit(main())
