"""How soon drift is noticed, and how often falsely: simulated services, then real photos.

python benchmarks/drift.py [--services 200] [--data shared/data --backbone pocket]

The first table has services whose photos never change, looked at after each day: days on which a
test started that ever gave a false alarm, where 1 in 1,000 is promised for all three measures
together. The second has the number of photos until a change is noticed. With --data, a model is
trained on clothing-dataset-small. Its validation and test photos together are divided at random
into a reference and a stream of 12 days, in the second half of which there are photos of trashnet
or sign-digits. (The folders of that data set differ from each other: its test photos have another
mix of classes than its validation photos, and are reported as changed.)
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from common import folder

from tailorbird.metrics.drift import CALM_DAYS, MEASURES, Bins, compare

CLASSES = np.array([0.25, 0.2, 0.15, 0.1, 0.08, 0.07, 0.05, 0.05, 0.03, 0.02])
"""Of the simulated photos: ten classes, some of them rare."""


def counted(bins: Bins, values: np.ndarray) -> np.ndarray:
    """Return the counts of values, or of classes where the bins are classes, (B,)."""
    numbers = np.searchsorted(bins.edges, values, side="right") if bins.edges else values
    return np.bincount(numbers.astype(int), minlength=len(bins.counts))


def calm(services: int, validation: int, photos: int, days: int) -> tuple[int, int]:
    """Return the number of false alarms and of services with one, of services without a change.

    An alarm is counted by the day on which its test started.
    """
    alarms = with_alarm = 0
    for service in range(services):
        random = np.random.default_rng((service, validation, photos))
        counts = random.multinomial(validation, CLASSES)
        references = [Bins.of(random.random(validation)) for _ in range(2)]
        streams = [
            (bins, [counted(bins, random.random(photos)) for _ in range(days)])
            for bins in references
        ]
        classes = list(random.multinomial(photos, CLASSES, days))
        streams.append((Bins(tuple(counts.tolist())), classes))
        found = {
            (measure, change.since)
            for measure, (bins, rows) in enumerate(streams)
            for day in range(1, days + 1)
            if (change := compare(bins, np.array(rows[:day]))) is not None and change.changed
        }
        alarms += len(found)
        with_alarm += bool(found)
    return alarms, with_alarm


def noticed(validation: int, share: float, seed: int, *, a_day: int = 25) -> tuple[int, int] | None:
    """Return photos until a change is noticed after 20 calm days, and days by which its date errs.

    share: of the photos that are unlike all but the most unfamiliar validation photos.
    """
    random = np.random.default_rng((seed, validation))
    bins = Bins.of(random.random(validation))
    rows = [counted(bins, random.random(a_day)) for _ in range(20)]
    for day in range(1, 61):
        strange = random.random(a_day) < share
        rows.append(counted(bins, np.where(strange, 0.999, random.random(a_day))))
        change = compare(bins, np.array(rows))
        if change is not None and change.changed:
            return day * a_day, change.since - 20
    return None


def simulate(services: int) -> None:
    """Print both tables of simulated services."""
    print(f"Without a change ({services} services, 100 days; at most 1 in {CALM_DAYS:,} promised)")
    print("| validation photos | photos a day | false alarms in days | services with one |")
    print("| --- | --- | --- | --- |")
    for validation in (50, 300, 2000):
        for photos in (10, 200):
            alarms, with_alarm = calm(services, validation, photos, 100)
            print(
                f"| {validation:,} | {photos} | {alarms} in {services * 100:,} | "
                f"{with_alarm} of {services} |",
                flush=True,
            )
    print("\nA change after 20 calm days of 25 photos (50 services each)")
    print("| validation photos | strange photos | noticed | after photos (median) | date errs |")
    print("| --- | --- | --- | --- | --- |")
    for validation in (50, 100, 300, 1000):
        for share in (0.1, 0.2, 0.5):
            found = [noticed(validation, share, seed) for seed in range(50)]
            told = [each for each in found if each is not None]
            after = f"{np.median([n for n, _ in told]):.0f}" if len(told) >= 25 else "-"
            errs = f"{np.median([abs(d) for _, d in told]):.0f} days" if told else "-"
            print(
                f"| {validation:,} | {share:.0%} | {len(told)} of 50 | {after} | {errs} |",
                flush=True,
            )


def measured(model: Path, photos: list[Path]) -> dict[str, np.ndarray]:
    """Return the value of each measure for photos."""
    from tailorbird import load
    from tailorbird.model.prediction import Prediction

    classifier = load(model)
    rows = [each for each in classifier.stream(photos) if isinstance(each, Prediction)]
    return {
        "confidence": np.array([row.probability for row in rows]),
        "unfamiliarity": np.array([row.unfamiliarity or 0.0 for row in rows]),
        "predicted": np.array([classifier.classes.index(row.label) for row in rows]),
    }


def real(data: Path, backbone: str, repeats: int) -> None:
    """Print alarms of streams of real photos, divided anew at random in each repetition."""
    from tailorbird import train

    def images(place: Path) -> list[Path]:
        return sorted(path for path in place.rglob("*") if path.suffix in (".jpg", ".JPG", ".png"))

    clothing = data / "clothing-dataset-small"
    with folder() as place:
        model = place / "clothing.onnx"
        train(clothing, model, backbone=backbone, report=False)
        usual = measured(model, images(clothing / "validation") + images(clothing / "test"))
        others = {
            name: measured(model, images(data / name)[::5]) for name in ("trashnet", "sign-digits")
        }
    total = len(usual["confidence"])
    print(
        f"\nReal photos, {backbone}: {total} of clothing, the first half for reference, then days"
    )
    print(
        "| other photos in the second half of the days | measure | alarms | after photos (median) |"
    )
    print("| --- | --- | --- | --- |")
    for name, share in ((None, 0.0), *((name, s) for name in others for s in (0.1, 0.2, 0.5))):
        for measure in MEASURES:
            other = others[name][measure] if name else usual[measure][:0]
            found = [alarm(usual[measure], other, share, seed) for seed in range(repeats)]
            after = [each for each in found if each is not None]
            label = f"{share:.0%} {name}" if name else "none"
            seen = f"{np.median(after):.0f}" if name and after else "-"
            print(f"| {label} | {measure} | {len(after)} of {repeats} | {seen} |", flush=True)


def alarm(usual: np.ndarray, other: np.ndarray, share: float, seed: int) -> int | None:
    """Return how many photos after the change it took until an alarm; None without one."""
    random = np.random.default_rng(seed)
    mixed = usual[random.permutation(len(usual))]
    cut = len(mixed) // 2
    classes = int(usual.max()) + 1
    if usual.dtype.kind == "f":
        bins = Bins.of(mixed[:cut])
    else:
        bins = Bins(tuple(np.bincount(mixed[:cut], minlength=classes).tolist()))
    stream = mixed[cut:]
    half = len(stream) // 2
    strange = half + np.flatnonzero(random.random(len(stream) - half) < share)
    stream[strange] = random.choice(other, len(strange), replace=False)
    days = np.array([counted(bins, part) for part in np.array_split(stream, 12)])
    for day in range(1, 13):
        found = compare(bins, days[:day])
        if found is not None and found.changed:
            return int(days[:day].sum()) - half
    return None


def main() -> None:
    """Run what the arguments name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--services", type=int, default=200)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--backbone", default="pocket")
    parser.add_argument("--repeats", type=int, default=50)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if given.services:
        simulate(given.services)
    if given.data is not None:
        real(given.data, given.backbone, given.repeats)


if __name__ == "__main__":
    main()
