"""The course's steps in order: what each is called, how many epochs the notebooks give it and how
many this replay does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A step. fits: how many models it fits. epochs: of each, in the notebooks; replayed: of each,
    here; short: in the short form.

    avoided: what goes wrong without being noticed in the notebook, and does not on the other side.
    """

    title: str
    fits: int = 0
    epochs: int = 0
    replayed: int = 0
    short: int = 0
    avoided: str = ""


STEPS: dict[str, Step] = {
    "imagenet": Step(
        "A pretrained network names a photo", avoided="preparing pixels is part of the model file"
    ),
    "frozen": Step(
        "Frozen base, pooling, one dense layer",
        1,
        10,
        1,
        1,
        "no best epoch lost: the last is not the best",
    ),
    "learning-rate": Step(
        "Learning rates, one after another", 4, 10, 1, 1, "no photo goes through the base twice"
    ),
    "checkpoint": Step(
        "The best epoch is kept", 1, 10, 2, 2, "best checkpoint overwritten after a restart"
    ),
    "inner": Step(
        "An inner layer of 10, 100, 1000", 3, 10, 1, 1, "differences of chance are called so"
    ),
    "dropout": Step("Dropout 0, 0.2, 0.5, 0.8", 4, 30, 1, 1, "differences of chance are called so"),
    "augmentation": Step(
        "Augmentation", 1, 50, 1, 1, "validation through the augmenting generator"
    ),
    "larger": Step("Larger photos", 1, 50, 1, 1, ""),
    "use": Step(
        "Using the model; the notebook's own file imported", avoided="preprocessing mismatch"
    ),
    "fine-tune": Step(
        "Fine-tuning the base (beyond the course)",
        1,
        1,
        1,
        1,
        "batch normalisation that trains unnoticed",
    ),
    "hand-back": Step("Back to Keras", avoided=""),
    "footwear": Step(
        "Three classes, L2, batch norm, early stopping, mixed precision", 1, 5, 5, 2, ""
    ),
    "homework": Step(
        "A small network from scratch, two classes: plain, then augmented", 2, 10, 3, 1, ""
    ),
    "pitfall-validation": Step("Validation through the augmenting generator"),
    "pitfall-resume": Step("Best checkpoint lost after a restart", 1, 1, 1, 1),
    "pitfall-preprocess": Step("Pixels prepared another way"),
    "pitfall-batch-norm": Step("Batch normalisation that trains unnoticed"),
}

PITFALLS = tuple(name for name in STEPS if name.startswith("pitfall"))
COURSE = tuple(name for name in STEPS if name not in PITFALLS)

FIRST_OURS = frozenset({"hand-back"})
"""Steps whose notebook side needs results of the tailorbird side."""


def epochs(*, short: bool, whole: bool) -> dict[str, int]:
    """Return the notebook's epochs per fit, by step; `resume` is a pitfall's."""
    found = {
        name: step.short if short else step.epochs if whole else step.replayed
        for name, step in STEPS.items()
        if step.fits
    }
    return {**found, "resume": found["pitfall-resume"]}
