"""How well models notice photos of other data sets, by the score of unfamiliarity.

    python benchmarks/unfamiliarity.py [--sources FOLDER,...] [--backbones lite,pocket,...]
        [--refuse 0.02] [--seeds 0,1,2] [--taught] [--model MODEL --trained-on FOLDER]

Each source in turn is what the classes are of; the photos of the others are strangers. All scores
are computed from the same cached features, with prototypes, components and heads from the photos
of train alone. Printed for each score and other source: the AUROC on test photos against strangers;
the share of strangers noticed at the threshold that refuses `--refuse` of the validation photos,
beside the share of test photos that this threshold refuses; and the share noticed where just 5% of
the test photos are refused. `few` keeps 20 training photos of a class and 5 for validation, `three`
keeps three classes. `carried` is the share of test photos refused, mean and largest, and the share
of strangers noticed, over 20 other divisions into validation and test: with the threshold from
validation alone and, as `train` chooses it, from train and validation, where each photo of train is
compared with prototypes found without its fold.

With --taught, photos of two classes teach "none of these" to a model of the other ones, and one
more class is left out and never seen: the shares noticed by the distance alone, by a regression
with the further class alone, and by both, which is in use.

With --model, a finished model file (fine-tuned, imported) is measured: its own output on its own
test photos and on the other sources.

Last, the cost: one run of a model file with the output and without, in turns.

The ratio is the lowest AUROC of the score in use on `lite` over 0.99, the figure asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from common import CLOTHING, MOBILENET, report

from tailorbird.backbone import open_backbone
from tailorbird.dataset import pixels_of, split
from tailorbird.errors import ModelFileError
from tailorbird.features import Embedder
from tailorbird.head import search
from tailorbird.inference import Runner, speeds
from tailorbird.label_errors.crossfit import fold_numbers
from tailorbird.metrics.refusals import choose_refusal
from tailorbird.model import Classifier
from tailorbird.model.fitting import Known, fit_unfamiliarity
from tailorbird.model.graph import BackboneGraph, build
from tailorbird.model.unfamiliarity import Unfamiliarity, find_prototypes
from tailorbird.preparation import PreparedData, Steps, prepare_data
from tailorbird.training.calibration import FOLDS

SOURCES = (CLOTHING, CLOTHING.parent / "trashnet", CLOTHING.parent / "sign-digits")
OWN = "prototypes (in use)"
Score = Callable[[np.ndarray], np.ndarray]
Parts = dict[str, tuple[np.ndarray, np.ndarray]]
"""Features (N, K) and labels (N,) of train, validation and test."""


def auroc(known: np.ndarray, strange: np.ndarray) -> float:
    """Return the probability that a stranger scores above a photo of the classes."""
    ranked = np.sort(known)
    below = np.searchsorted(ranked, strange, "left") + np.searchsorted(ranked, strange, "right")
    return float(below.mean() / 2 / len(known))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def energy(logits: np.ndarray) -> np.ndarray:
    top = logits.max(axis=1)
    return top + np.log(np.exp(logits - top[:, None]).sum(axis=1))


def vim(train: np.ndarray, logits: Score, components: int) -> Score:
    """Residual outside the principal components of normalised features, with the energy."""
    rows = unit(train)
    mean = rows.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov((rows - mean).T))
    kept = vectors[:, -components:]

    def residual(features: np.ndarray) -> np.ndarray:
        moved = unit(features) - mean
        inside = ((moved @ kept) ** 2).sum(axis=1)
        return np.sqrt(np.maximum((moved**2).sum(axis=1) - inside, 0))

    weight = logits(train).max(axis=1).mean() / residual(train).mean()
    return lambda features: weight * residual(features) - energy(logits(features))


def mahalanobis(train: np.ndarray, labels: np.ndarray, *, normalise: bool, relative: bool) -> Score:
    """Distance to the nearest class mean under the shared covariance; ++ on normalised features."""
    change = unit if normalise else np.asarray
    rows = change(train)
    classes = np.unique(labels)
    means = np.stack([rows[labels == label].mean(axis=0) for label in classes])

    def whitened(centred: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
        return vectors / np.sqrt(values + 0.01 * values.mean())

    within = whitened(rows - means[np.searchsorted(classes, labels)])
    among, middle = whitened(rows - rows.mean(axis=0)), rows.mean(axis=0)
    places = means @ within

    def distance(features: np.ndarray) -> np.ndarray:
        moved = change(features)
        inner = moved @ within
        found = ((inner[:, None] - places[None]) ** 2).sum(axis=2).min(axis=1)
        if relative:
            found -= (((moved - middle) @ among) ** 2).sum(axis=1)
        return np.asarray(found)

    return distance


def neighbour(train: np.ndarray, k: int) -> Score:
    rows = unit(train)
    return lambda features: -np.partition(unit(features) @ rows.T, -k, axis=1)[:, -k]


def scores(parts: Parts, seed: int) -> dict[str, Score]:
    """Return every score, fitted on train."""
    (train, labels), (held, held_labels) = parts["train"], parts["validation"]
    head = search(
        train[None].astype(np.float32), labels, held.astype(np.float32), held_labels,
        classes=int(labels.max()) + 1, seed=seed,
    ).best.head  # fmt: skip

    def logits(features: np.ndarray) -> np.ndarray:
        return head.logits(features.astype(np.float32)).astype(np.float64)

    def confidence(features: np.ndarray) -> np.ndarray:
        rows = logits(features)
        return energy(rows) - rows.max(axis=1)

    own = prototypes(train, labels, seed)
    few = {"MSP": confidence, "energy": lambda features: -energy(logits(features))}
    return {
        **few,
        "ViM": vim(train, logits, min(256, min(train.shape) // 2)),
        "relative Mahalanobis": mahalanobis(train, labels, normalise=False, relative=True),
        "Mahalanobis++": mahalanobis(train, labels, normalise=True, relative=False),
        "10th neighbour": neighbour(train, 10),
        "1st of 300": neighbour(train[:: max(1, len(train) // 300)], 1),
        OWN: lambda features: own.scores(features.astype(np.float32)),
    }


def fewer(parts: Parts, seed: int, photos: int | None, classes: int | None) -> Parts:
    """Keep some photos of each class, or some classes."""
    random = np.random.default_rng(seed)
    count = int(parts["train"][1].max()) + 1
    kept = np.sort(random.permutation(count)[: classes or count])
    found = {}
    for name, (rows, labels) in parts.items():
        most = {"train": photos, "validation": (photos or 0) // 4 or None}.get(name)
        at = [random.permutation(np.flatnonzero(labels == label))[:most] for label in kept]
        chosen = np.concatenate(at)
        found[name] = (rows[chosen], np.searchsorted(kept, labels[chosen]))
    return found


def prototypes(train: np.ndarray, labels: np.ndarray, seed: int) -> Unfamiliarity:
    count = int(labels.max()) + 1
    return Unfamiliarity(find_prototypes(train.astype(np.float32), classes=count, seed=seed))


def carried(
    parts: Parts, groups: np.ndarray, strange: np.ndarray, refuse: float, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the shares of test photos refused and of strangers noticed, (20, 2), for both ways."""
    train, labels = parts["train"]
    rows = train.astype(np.float32)
    pool = np.concatenate([parts["validation"][0], parts["test"][0]]).astype(np.float32)
    count = len(parts["validation"][0])
    folds = fold_numbers(labels, groups, np.random.default_rng((seed, 2)), FOLDS)
    for name, given in (("validation", None), ("train and validation", folds)):
        known = Known(rows, labels, int(labels.max()) + 1, rows[:0], given)
        found = []
        for number in range(20):
            mixed = np.random.default_rng((seed, number)).permutation(pool)
            halves = {"validation": mixed[:count], "test": mixed[count:]}
            fitted = fit_unfamiliarity(known, halves, {}, refuse=refuse, seed=seed)
            assert fitted is not None
            noticed = fitted.score.scores(strange.astype(np.float32)) > fitted.refusal.threshold
            found.append((fitted.refused("test").mean(), noticed.mean()))
        yield name, np.array(found)


def taught(title: str, parts: Parts, other: np.ndarray, refuse: float, seed: int) -> None:
    """Print what photos of no class teach, by their number."""
    random = np.random.default_rng(seed)
    order = random.permutation(int(parts["train"][1].max()) + 1)
    unseen, none, rest = order[:1], order[1:3], np.sort(order[3:])

    def of(names: tuple[str, ...], classes: np.ndarray) -> np.ndarray:
        chosen = [parts[name][0][np.isin(parts[name][1], classes)] for name in names]
        return np.concatenate(chosen).astype(np.float32)

    everything = ("train", "validation", "test")
    strangers = {
        "taught": of(("validation", "test"), none),
        "unseen": of(everything, unseen),
        "other sources": other.astype(np.float32),
    }
    pool = random.permutation(of(("train",), none))
    labels = parts["train"][1]
    numbers = np.searchsorted(rest, labels[np.isin(labels, rest)])
    held = {name: of((name,), rest) for name in ("validation", "test")}
    for count in (0, 12, 60, 200):
        known = Known(of(("train",), rest), numbers, len(rest), pool[:count])
        fitted = fit_unfamiliarity(known, held, {}, refuse=refuse, seed=seed)
        assert fitted is not None
        own = fitted.score.signals(held["validation"])
        cells = [f"refused {fitted.refused('test').mean():.3f}"]
        for name, rows in strangers.items():
            signals = fitted.score.signals(rows)
            each = [
                (signals[:, i] > choose_refusal(own[:, i], refuse).threshold).mean()
                for i in range(signals.shape[1])
            ]
            both = (fitted.score.of_signals(signals) > fitted.refusal.threshold).mean()
            cells.append(f"{name} " + " ".join(f"{share:.3f}" for share in (*each, both)))
        print(f"  {title}, {count} photos of no class: " + "  ".join(cells), flush=True)


def measure(
    name: str, parts: Parts, others: dict[str, np.ndarray], refuse: float, seed: int
) -> float:
    """Print the table of one source; return the lowest AUROC of the score in use."""
    print(f"\n{name}: {len(parts['train'][0])} photos of train, seed {seed}")
    lowest = 1.0
    for title, score in scores(parts, seed).items():
        held, test = score(parts["validation"][0]), score(parts["test"][0])
        limit = choose_refusal(held, refuse).threshold
        cells = [f"refused {(test > limit).mean():.3f}"]
        for other, rows in others.items():
            strange = score(rows)
            found = auroc(test, strange)
            at_five = (strange > np.quantile(test, 0.95)).mean()
            cells.append(f"{other} {found:.3f} {(strange > limit).mean():.3f} {at_five:.3f}")
            if title == OWN:
                lowest = min(lowest, found)
        print(f"  {title:22}" + "  ".join(cells), flush=True)
    return lowest


def cost(backbone: str, parts: Parts, seed: int) -> float:
    """Return the time of a run with the output over one without, measured in turns."""
    opened = open_backbone(backbone)
    rows, labels = parts["train"]
    classes = int(labels.max()) + 1
    head = search(
        rows[None].astype(np.float32), labels, rows[:64].astype(np.float32), labels[:64],
        classes=classes, seed=seed, fixed={"inner": (100,), "dropout": 0.2, "l2": 0.0,
        "learning_rate": 1e-3, "epochs": 2},
    ).best.head  # fmt: skip
    own = prototypes(rows, labels, seed)
    models = [build(BackboneGraph.of(opened), head, 1.0, score) for score in (None, own)]
    runners = [Runner(model, "a model", ModelFileError) for model in models]
    size = opened.info.size
    images = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), np.uint8)
    # Both are asked for all outputs that they have.
    ratios = []
    for _ in range(5):
        plain, scored = speeds(runners, images, None, seconds=3.0)  # type: ignore[arg-type]
        ratios.append(plain / scored)
    return float(np.median(ratios))


def of_model(path: Path, trained_on: Path, sources: list[Path]) -> None:
    """Print how a finished model file notices the other sources."""
    classifier = Classifier(path)
    limit = classifier.info.unfamiliar_above
    if limit is None:
        raise SystemExit(f"{path} has no output `unfamiliarity`")

    def unfamiliarity(data: PreparedData, part: str | None) -> np.ndarray:
        samples = data.parts[part] if part else data.dataset.samples
        rule = classifier.info.resize
        found = []
        for start in range(0, len(samples), 32):
            pixels = np.stack([pixels_of(sample, rule) for sample in samples[start : start + 32]])
            found.append(classifier.outputs(pixels).unfamiliarity)
        return np.concatenate([rows for rows in found if rows is not None])

    own = prepare_data(trained_on, steps=Steps(partial(split, seed=classifier.info.seed)))
    test = unfamiliarity(own, "test")
    print(f"\n{path.name}: {(test > limit).mean():.3f} of {len(test)} test photos refused")
    for source in sources:
        if source.resolve() == trained_on.resolve():
            continue
        strange = unfamiliarity(prepare_data(source), None)
        print(
            f"  {source.name}: AUROC {auroc(test, strange):.3f}, noticed "
            f"{(strange > limit).mean():.3f}, at 5% of test photos "
            f"{(strange > np.quantile(test, 0.95)).mean():.3f}"
        )


def prepared(source: Path, backbone: str, seed: int) -> tuple[Parts, np.ndarray]:
    """Return features and labels by split, and the groups of train."""
    steps = Steps(partial(split, seed=seed))
    data = prepare_data(source, Embedder(open_backbone(backbone)), steps)
    parts = {
        name: (data.features(samples)[0].astype(np.float64), data.labels[name])
        for name, samples in data.parts.items()
    }
    pairs = zip(data.dataset.samples, data.dataset.groups, strict=True)
    return parts, np.array([group for sample, group in pairs if sample.split == "train"])


def main() -> None:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--sources", default=",".join(map(str, SOURCES)))
    made.add_argument("--backbones", default=f"lite,pocket,{MOBILENET}")
    made.add_argument("--refuse", type=float, default=0.02)
    made.add_argument("--seeds", default="0")
    made.add_argument("--taught", action="store_true")
    made.add_argument("--model", type=Path)
    made.add_argument("--trained-on", type=Path, default=CLOTHING)
    given = made.parse_args()
    sources = [Path(source) for source in given.sources.split(",")]
    if given.model is not None:
        of_model(given.model, given.trained_on, sources)
        return
    lowest, slowest = 1.0, 0.0
    for backbone in given.backbones.split(","):
        for seed in map(int, given.seeds.split(",")):
            all_parts = {source.name: prepared(source, backbone, seed) for source in sources}
            for name, (parts, groups) in all_parts.items():
                others = {
                    other: np.concatenate([rows for rows, _ in found.values()])
                    for other, (found, _) in all_parts.items()
                    if other != name
                }
                title = f"{Path(backbone).stem}, {name}"
                strange = np.concatenate(list(others.values()))
                if given.taught:
                    taught(title, parts, strange, given.refuse, seed)
                    continue
                found = measure(title, parts, others, given.refuse, seed)
                lowest = min(lowest, found) if backbone == "lite" else lowest
                few, three = fewer(parts, seed, 20, None), fewer(parts, seed, None, 3)
                measure(f"{title}, few", few, others, given.refuse, seed)
                measure(f"{title}, three", three, others, given.refuse, seed)
                alone = np.arange(len(few["train"][0]))
                for what, part, known in (("", parts, groups), (", few", few, alone)):
                    for how, shares in carried(part, known, strange, given.refuse, seed):
                        (refused, noticed), (most, _) = shares.mean(axis=0), shares.max(axis=0)
                        print(
                            f"  carried{what}, {how}: {refused:.3f}, {most:.3f}, noticed "
                            f"{noticed:.3f}"
                        )
        ratio = cost(backbone, all_parts[sources[0].name][0], seed)
        slowest = max(slowest, ratio)
        print(f"\n{Path(backbone).stem}: a run takes {ratio:.3f} of the time without the output")
    report("unfamiliarity", lowest / 0.99, ">= 1", lowest_auroc=lowest, slowest=slowest)


if __name__ == "__main__":
    main()
