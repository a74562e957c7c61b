"""Fine-tune with LightlyTrain's `train_image_classification` and its default settings.

Its tutorial uses the same data set. AdamW at 3e-4 with weight decay 1e-4, 500 steps of warm-up,
batches of 16, random resized crops (scale 0.2 to 1), mirroring, colour jitter; float32, because
bfloat16 is slow on most CPUs. The steps are as many as fit into the time (its default, 100,000, is
for GPUs). The validation photos are scored after each epoch. Needs no network: its weights are
those of the file, its usage statistics are switched off.
"""

from __future__ import annotations

import os
from typing import Any

os.environ["LIGHTLY_TRAIN_EVENTS_DISABLED"] = "1"

import torch
from common import ARGUMENTS, MEAN, NETWORK, SIZE, STD, given, left, loaded, measured, say

BATCH = 16


def main() -> None:
    import lightly_train
    from lightly_train._models.timm import timm as wrapper

    # It takes the map in front of timm's last convolution (320 channels) for one of 1280, and
    # fails; with timm's own forward_features the whole network is trained, as by the others.
    wrapper._forward_intermediates = wrapper._forward_features
    photos, weights, seconds = given()
    classes = sorted(entry.name for entry in (photos / "train").iterdir() if entry.is_dir())
    model = loaded(len(classes)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9)
    images = torch.zeros(BATCH, 3, SIZE, SIZE)

    def step() -> None:
        optimizer.zero_grad()
        model(images).mean().backward()
        optimizer.step()

    each = measured(step)
    say(step_images_per_second=BATCH / each)
    count = sum(1 for path in (photos / "train").rglob("*") if path.is_file())
    epoch = count // BATCH
    steps = max(epoch, int(left(seconds) / (each * 1.25)))
    lightly_train.train_image_classification(
        out="out", overwrite=True, model=f"timm/{NETWORK}", steps=steps, batch_size=BATCH,
        num_workers=2, accelerator="cpu", devices=1, precision="32-true",
        gradient_accumulation_steps=1,
        data={
            "train": str(photos / "train"), "val": str(photos / "validation"),
            "classes": dict(enumerate(classes)),
        },
        model_args={"backbone_args": {"checkpoint_path": str(weights), **ARGUMENTS}},
        transform_args={"image_size": (SIZE, SIZE), "normalize": {"mean": MEAN, "std": STD}},
        logger_args={"val_every_num_steps": epoch, "log_every_num_steps": epoch,
                     "tensorboard": None},
        metric_args={"watch_metric": "val_metric/top1_acc_micro"},
    )  # fmt: skip
    best: Any = lightly_train.load_model("out/exported_models/exported_best.pt").eval()
    right = [
        int(best.predict(str(path))["labels"].flatten()[0]) == number
        for number, name in enumerate(classes)
        for path in sorted((photos / "test" / name).iterdir())
    ]
    say(test=sum(right) / len(right))


if __name__ == "__main__":
    main()
