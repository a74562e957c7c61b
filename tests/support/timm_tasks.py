"""A small fine-tuning task for PyTorch on drawn photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.timm_networks import CNN, SIDE, network
from tailorbird.dataset import scan, split
from tailorbird.engines.finetune.settings import FinetuneSettings
from tailorbird.engines.finetune.task import FinetuneTask
from tailorbird.engines.protocol import Regularisation
from tailorbird.engines.torch import exporting, networks
from tailorbird.engines.torch.network import TorchNetwork
from tailorbird.head import Dense, Head
from tailorbird.progress import NoProgress

SETTINGS = FinetuneSettings(
    sizes=(SIDE,),
    unfreeze="all",
    epochs=2,
    batch_size=12,
    learning_rate=3e-3,
    regularisation=Regularisation(dropout=0.2),
    mixed_precision=False,
)


class Notes(NoProgress):
    """Keeps the notes of a run."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def timm_task(shapes: Path, folder: Path) -> FinetuneTask:
    """Return a task on a folder of photos; `folder` is for its cache and its run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILORBIRD_CACHE", str(folder / "cache"))
        dataset = split(scan(shapes), seed=0)
    architecture = networks.find(CNN)
    state = network(CNN).state_dict()
    blank = networks.build(architecture, SIDE).state_dict()
    net = networks.build(architecture, SIDE, weights={k: state.get(k, v) for k, v in blank.items()})
    opened = TorchNetwork(exporting.export(net, architecture, SIDE, {"name": CNN}))
    parts = {
        name: [one for one in dataset.samples if one.split == name]
        for name in ("train", "validation")
    }
    classes = sorted({one.label for one in dataset.samples})
    random = np.random.default_rng(1)
    width = opened.cuts(SIDE)[-1].values
    weight = (random.standard_normal((width, len(classes))) / width**0.5).astype(np.float32)
    return FinetuneTask(
        opened,
        parts,
        {
            name: np.array([classes.index(one.label) for one in part])
            for name, part in parts.items()
        },
        Head((Dense(weight, np.zeros(len(classes), np.float32)),)),
        SETTINGS.for_network(opened),
        size=SIDE,
        folder=folder / "run",
        seed=0,
        classes=len(classes),
        identity={"framework": opened.framework},
    )
