"""Whether mirrored photos show their class: hands, letters and arrows do not always.

Validation decides: before fine-tuning, whether photos are mirrored in training; after it, whether
the model averages the features of each photo and its mirror image.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tailorbird.dataset import stacked_pixels
from tailorbird.engines.finetune.results import score
from tailorbird.engines.finetune.settings import FinetuneSettings
from tailorbird.head import Head
from tailorbird.metrics.paired import better
from tailorbird.preparation import PreparedData
from tailorbird.progress import Progress

CHUNK = 256
"""Photos in memory at once."""


def without_harmful_flip(
    settings: FinetuneSettings, data: PreparedData, head: Head, progress: Progress
) -> FinetuneSettings:
    """Return the settings without mirrored views if the frozen network does not know such photos.

    It is asked about the validation photos as they are and mirrored. If it is significantly worse
    on the mirrored ones (McNemar's exact test), training on mirrored photos teaches it labels that
    are wrong.
    """
    augmentation = settings.augmentation
    if augmentation is None or not augmentation.flip:
        return settings
    plain, mirrored = accuracies_mirrored(data, head)
    if plain is None:
        return settings
    progress.note(
        f"photos are not mirrored in training: mirrored, {100 * mirrored:.1f}% of the validation "
        f"photos are recognised, and {100 * plain:.1f}% as they are"
    )
    return replace(settings, augmentation=replace(augmentation, flip=False))


def accuracies_mirrored(data: PreparedData, head: Head) -> tuple[float | None, float]:
    """Return the accuracy on validation photos as they are, and mirrored.

    The first is None where it is not significantly higher.
    """
    assert data.embedder is not None
    backbone, samples = data.embedder.backbone, data.parts["validation"]
    labels = data.labels["validation"]
    plain = head.logits(data.features(samples)[0]).argmax(axis=1) == labels
    found = []
    for start in range(0, len(samples), CHUNK):
        images = stacked_pixels(samples[start : start + CHUNK], backbone.info.rule)
        flipped = np.ascontiguousarray(images[:, :, ::-1])
        found.append(head.logits(backbone.features(flipped)).argmax(axis=1))
    mirrored = np.concatenate(found) == labels
    only_plain, only_mirrored = (
        int((plain & ~mirrored).sum()),
        int((mirrored & ~plain).sum()),
    )
    worse = better(only_plain, only_mirrored) == "a"
    return (float(plain.mean()) if worse else None), float(mirrored.mean())


def averaging_helps(
    plain: npt.NDArray[np.float32],
    averaged: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    progress: Progress,
) -> bool:
    """Return whether mirrored views, averaged in, lower the log-loss on the validation photos.

    plain, averaged: logits (M, C) without and with mirrored views. labels: int64 (M,).
    """
    alone, both = score(plain, labels), score(averaged, labels)
    helps = both.log_loss < alone.log_loss
    progress.note(
        f"mirrored views are {'averaged in' if helps else 'left out'}: validation log-loss "
        f"{both.log_loss:.3f}, accuracy {100 * both.accuracy:.1f}% with them; "
        f"{alone.log_loss:.3f}, {100 * alone.accuracy:.1f}% without"
    )
    return helps
