"""Compare `tailorbird train --finetune` with plain Keras `fit`: same photos, weights and size.

    python benchmarks/finetune_vs_keras.py [--size 160] [--only keras|tailorbird|report]

Measured are the seconds from the start of the process until the kept weights have the same
validation accuracy, the highest that both reach. tailorbird's include pulling the backbone, scan,
embedding and head search; Keras' begin with reading the photos. Results are kept in --keep, so that
each side can be run alone and reported later; without --only both run, one after the other.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from common import KERAS_WEIGHTS, keras_python, parser, report
from finetuning import Side, levels, ours, peer, save, saved


def compare(ours: Side, theirs: Side, name: str, **figures: object) -> None:
    """Print both sides by level, and the ratio at the highest level both reach."""
    for side in (ours, theirs):
        print(
            f"{side.name}: {side.seconds:.1f} s in all, validation {side.validation:.4f}, "
            f"test {side.test:.4f}"
        )
    both = levels(ours, theirs)
    if not both:
        sys.exit("no validation accuracy that both reach; give the slower side more epochs")
    print("validation accuracy: seconds of tailorbird, of Keras, ratio")
    for level, a, b in both:
        print(f"  {level:.4f}: {a:8.1f} {b:8.1f} {a / b:6.3f}")
    level, a, b = both[-1]
    report(
        name,
        a / b,
        "<= 0.5",
        validation_accuracy=level,
        tailorbird_seconds=a,
        keras_seconds=b,
        tailorbird_whole=ours.seconds,
        keras_whole=theirs.seconds,
        tailorbird_test=ours.test,
        keras_test=theirs.test,
        **figures,
    )


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--weights", type=Path, default=KERAS_WEIGHTS)
    options.add_argument("--size", type=int, default=160)
    options.add_argument("--epochs", type=int, default=6, help="of fine-tuning, on either side")
    options.add_argument(
        "--head-epochs", type=int, default=5, help="of the peer's head on the frozen base, first"
    )
    options.add_argument(
        "--rate",
        type=float,
        default=1e-4,
        help="the peer's learning rate for the base; 1e-5 to 1e-4",
    )
    options.add_argument("--options", default="", help="further options of `tailorbird train`")
    options.add_argument("--only", choices=("keras", "tailorbird", "report"))
    options.add_argument(
        "--keep",
        type=Path,
        default=Path("build/finetune_vs_keras"),
        help="folder for what a side did",
    )
    options.add_argument(
        "--keras-python", help="interpreter of the peer; by default its own environment is made"
    )
    given = options.parse_args()
    if given.only in (None, "tailorbird"):
        wanted = ["--epochs", str(given.epochs), *shlex.split(given.options)]
        save(
            ours(given.photos, given.weights, given.size, wanted, given.keep / "tailorbird"),
            given.keep,
        )
    if given.only in (None, "keras"):
        python = given.keras_python or str(keras_python())
        place = given.keep / "keras"
        theirs = peer(
            python,
            given.photos,
            given.weights,
            given.size,
            given.head_epochs,
            given.epochs,
            given.rate,
            place,
            environment={"KERAS_BACKEND": "tensorflow"},
        )
        save(theirs, given.keep)
    sides = saved("tailorbird", given.keep), saved("keras", given.keep)
    if sides[0] is None or sides[1] is None:
        print("one side is measured; run the other, then --only report")
        return
    compare(sides[0], sides[1], "finetune_vs_keras", size=given.size, epochs=given.epochs)


if __name__ == "__main__":
    main()
