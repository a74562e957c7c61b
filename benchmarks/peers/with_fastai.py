"""Fine-tune as fastai's tutorials do: `vision_learner` and `fine_tune`, with their defaults.

Photos are resized to 460 pixels, then augmented in batches at 224 (`aug_transforms`, min_scale
0.75); one epoch of the head on the frozen body comes first; batches of 64, base rate 2e-3. The
epochs are as many as fit into the time.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from common import ARGUMENTS, MEAN, NETWORK, SIZE, STD, given, left, measured, say
from fastai.callback.tracker import SaveModelCallback
from fastai.metrics import accuracy
from fastai.vision.all import (
    Callback,
    ImageDataLoaders,
    Resize,
    aug_transforms,
    get_image_files,
    vision_learner,
)


class Say(Callback):  # type: ignore[misc]
    """Print the accuracy after each epoch."""

    order = 90

    def after_epoch(self) -> None:
        values = dict(zip(self.recorder.metric_names[1:], self.recorder.log[1:], strict=False))
        if "accuracy" in values:
            say(epoch=self.epoch + 1, validation=float(values["accuracy"]))


def main() -> None:
    photos, weights, seconds = given()
    data = ImageDataLoaders.from_folder(
        photos, train="train", valid="validation", item_tfms=Resize(460),
        batch_tfms=aug_transforms(size=SIZE, min_scale=0.75), bs=64, num_workers=2, seed=0,
    )  # fmt: skip
    overlay = {"file": str(weights), "mean": MEAN, "std": STD}
    learner: Any = vision_learner(
        data, NETWORK, metrics=accuracy, path=".", pretrained_cfg_overlay=overlay, **ARGUMENTS
    )
    state = {key: value.clone() for key, value in learner.model.state_dict().items()}
    images, labels = data.one_batch()
    learner.unfreeze()
    learner.model.train()

    def step() -> None:
        learner.loss_func(learner.model(images), labels).backward()
        learner.model.zero_grad()

    each = measured(step)
    say(step_images_per_second=len(images) / each)
    learner.model.load_state_dict(state)
    learner.freeze()
    # A batch of an epoch took 0.75 times as long as these first steps, with the body frozen too.
    epoch = len(data.train) * each * 0.8
    epochs = max(1, math.floor((left(seconds) - epoch) / epoch))
    keep = SaveModelCallback(monitor="accuracy", fname="best")
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(epochs, cbs=[keep, Say()])
    test = data.test_dl(get_image_files(photos / "test"), with_labels=True)
    with learner.no_bar(), torch.no_grad():
        say(test=float(learner.validate(dl=test)[1]))


if __name__ == "__main__":
    main()
