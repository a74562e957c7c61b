"""Print images/s of each epoch of timm's training loop, with the loader and step of its train.py.

    python epochs_timm.py PHOTOS NETWORK SIZE BATCH EPOCHS

Its defaults (see with_timm.py), and on a GPU those that its documentation recommends for speed:
bfloat16 (`--amp --amp-dtype bfloat16`), channels last, the prefetcher, a loader process per core.
Random weights. The loss of a step is not read.
"""

from __future__ import annotations

import os
import sys
import time

import torch
from common import say
from timm import create_model
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2


def main() -> None:
    photos, network = sys.argv[1:3]
    size, batch, epochs = map(int, sys.argv[3:6])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    dataset = create_dataset("", root=photos, is_training=True)
    batches = create_loader(
        dataset, input_size=(3, size, size), batch_size=batch, is_training=True,
        use_prefetcher=gpu, interpolation="random", color_jitter=0.4, hflip=0.5, scale=(0.08, 1.0),
        num_workers=len(os.sched_getaffinity(0)), device=device, pin_memory=gpu,
        persistent_workers=True,
    )  # fmt: skip
    model = create_model(network, num_classes=len(dataset.reader.class_to_idx)).to(device)
    if gpu:
        model = model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=1e-4, weight_decay=2e-5, momentum=0.9)
    loss_of = LabelSmoothingCrossEntropy(0.1)
    model.train()
    for epoch in range(epochs):
        count, begun = 0, time.perf_counter()
        for images, labels in batches:
            values = images.contiguous(memory_format=torch.channels_last) if gpu else images
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=gpu):
                loss = loss_of(model(values), labels)
            loss.backward()
            optimizer.step()
            count += len(images)
        if gpu:
            torch.cuda.synchronize()
        say(epoch=epoch + 1, images_per_second=count / (time.perf_counter() - begun))


if __name__ == "__main__":
    main()
