"""Fine-tune as timm's train.py does with --pretrained: its factories, its defaults.

The script itself is not part of the package. Its defaults are repeated here: SGD with Nesterov
momentum 0.9, weight decay 2e-5, learning rate 0.1 for batches of 256 in proportion to the batch,
cosine schedule per epoch with 5 epochs of warm-up from 1e-5 (fewer where there are fewer than 25),
label smoothing 0.1, random resized crops (scale 0.08 to 1), mirroring, colour jitter 0.4. Images
lie channels first in float32, its default; the batch is 32 for 128, so that a CPU makes enough
steps in minutes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from common import MEAN, SIZE, STD, given, left, loaded, measured, say
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

BATCH = 32


def loader(dataset: Any, *, training: bool) -> Any:
    return create_loader(
        dataset, input_size=(3, SIZE, SIZE), batch_size=BATCH, is_training=training,
        use_prefetcher=False, mean=MEAN, std=STD, interpolation="random" if training else "bicubic",
        color_jitter=0.4, hflip=0.5, scale=(0.08, 1.0), num_workers=2, crop_pct=0.875,
        persistent_workers=True,
    )  # fmt: skip


@torch.no_grad()
def accuracy(model: Any, batches: Any) -> float:
    model.eval()
    right = [(model(images).argmax(1) == labels).float() for images, labels in batches]
    return float(torch.cat(right).mean())


def main() -> None:
    photos, _, seconds = given()
    parts = {
        part: create_dataset("", root=str(photos / part), is_training=part == "train")
        for part in ("train", "validation", "test")
    }
    batches = {part: loader(data, training=part == "train") for part, data in parts.items()}
    model = loaded(len(parts["train"].reader.class_to_idx))
    rate = 0.1 * BATCH / 256
    optimizer = create_optimizer_v2(model, opt="sgd", lr=rate, weight_decay=2e-5, momentum=0.9)
    loss_of = LabelSmoothingCrossEntropy(0.1)

    def step(images: Any, labels: Any) -> None:
        optimizer.zero_grad()
        loss_of(model(images), labels).backward()
        optimizer.step()

    state = {key: value.clone() for key, value in model.state_dict().items()}
    fixed = (torch.zeros(BATCH, 3, SIZE, SIZE), torch.zeros(BATCH, dtype=torch.long))
    model.train()
    each = measured(lambda: step(*fixed))
    say(step_images_per_second=BATCH / each)
    model.load_state_dict(state)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=rate, weight_decay=2e-5, momentum=0.9)
    evaluated = len(parts["validation"]) / BATCH * each / 3
    epochs = max(1, math.floor(left(seconds) / (len(batches["train"]) * each * 1.1 + evaluated)))
    schedule, _ = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=epochs, warmup_epochs=min(5, epochs // 5),
        warmup_lr=1e-5, min_lr=0,
    )  # fmt: skip
    schedule.step(0)
    best, kept = 0.0, state
    for epoch in range(epochs):
        model.train()
        for images, labels in batches["train"]:
            step(images, labels)
        schedule.step(epoch + 1)
        found = accuracy(model, batches["validation"])
        say(epoch=epoch + 1, epochs=epochs, validation=found)
        if found > best:
            best, kept = found, {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(kept)
    say(test=accuracy(model, batches["test"]))


if __name__ == "__main__":
    main()
