"""Fine-tuning as a part of the pipeline: from the head found on cached features, or from random weights, to what is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird.backbone import Backbone
from tailorbird.dataset import Sample, pixels_of
from tailorbird.engines.finetune.loop import discard, finetune
from tailorbird.engines.finetune.settings import FROM_SCRATCH, FinetuneSettings
from tailorbird.engines.finetune.task import FinetuneTask
from tailorbird.engines.protocol import TrainableNetwork, Training
from tailorbird.engines.registry import carried, scratch_network
from tailorbird.files import write_bytes
from tailorbird.head import SearchResult
from tailorbird.inference import CPU
from tailorbird.progress import Progress
from tailorbird.training.learned import Learned, logits_of, search_settings

if TYPE_CHECKING:
    from tailorbird.engines.finetune.results import FinetuneResult

TUNED = "tuned.backbone.onnx"

Parts = Mapping[str, Sequence[Sample]]
Labels = Mapping[str, npt.NDArray[np.int64]]


def run_folder(output: Path) -> Path:
    """Where an unfinished run is kept until its model is written."""
    return output.with_name(f"{output.name}.finetune")


def tune(
    network: TrainableNetwork,
    backbone: Backbone,
    parts: Parts,
    labels: Labels,
    features: npt.NDArray[np.float32],
    found: SearchResult,
    settings: FinetuneSettings,
    *,
    classes: int,
    output: Path,
    seed: int,
    verified: npt.NDArray[np.int64],
    progress: Progress,
) -> Learned:
    """Fine-tune a pretrained network from the head found on its cached features. Raises what `finetune` raises."""
    task = FinetuneTask(
        network,
        parts,
        labels,
        found.best.head,
        settings,
        size=backbone.info.size,
        folder=run_folder(output),
        seed=seed,
        classes=classes,
        features=features,
        identity={"backbone": backbone.info.sha256, "framework": network.framework},
    )
    tuned = finetune(task, progress=progress)
    about = {"pretrained": {"name": backbone.info.name, "sha256": backbone.info.sha256}}
    learned = _learned(
        network, tuned, parts, output, settings, about, search_settings(found), verified
    )
    return replace(learned, fit=found.best, search=found)


def train_from_scratch(
    engine: str | None,
    parts: Parts,
    labels: Labels,
    settings: FinetuneSettings,
    *,
    classes: int,
    output: Path,
    seed: int,
    verified: npt.NDArray[np.int64],
    progress: Progress,
) -> Learned:
    """Train a small network from random weights. Raises what `finetune` raises, SettingsError for more than one size."""
    (size,) = settings.sizes or FROM_SCRATCH.sizes or ()
    settings = replace(settings, sizes=(size,), unfreeze="all")
    network, head = scratch_network(engine, size=size, classes=classes, seed=seed)
    task = FinetuneTask(
        network,
        parts,
        labels,
        head,
        settings,
        size=size,
        folder=run_folder(output),
        seed=seed,
        classes=classes,
        identity={"backbone": network.name, "framework": network.framework},
    )
    tuned = finetune(task, progress=progress)
    return _learned(network, tuned, parts, output, settings, {}, {}, verified)


def _learned(
    network: TrainableNetwork,
    tuned: FinetuneResult,
    parts: Parts,
    output: Path,
    settings: FinetuneSettings,
    about: dict[str, Any],
    searched: dict[str, Any],
    verified: npt.NDArray[np.int64],
) -> Learned:
    """Export the best weights, and let the framework itself say what the file will be verified against."""
    size = tuned.best.size
    backbone_graph, head = network.backbone_graph(size), network.head()
    # Opened from a file as any backbone is, so that it is checked and its content has a hash.
    path = run_folder(output) / TUNED
    write_bytes(path, network.backbone(size).SerializeToString())
    info = Backbone(path).info
    # From the pixels on, nothing frozen: the activations that training worked on were rounded to float16.
    network.begin(Training(size=size, cut=0, regularisation=settings.regularisation))
    images = np.stack([pixels_of(parts["validation"][index], info.rule) for index in verified])
    expected = np.concatenate(
        [network.logits(images[i : i + CPU.batch]) for i in range(0, len(images), CPU.batch)]
    )
    return Learned(
        backbone_graph=backbone_graph,
        head=head,
        about={**info.as_dict(), **about},
        rule=info.rule,
        validation=logits_of(backbone_graph, head, parts["validation"], info.rule),
        test=logits_of(backbone_graph, head, parts["test"], info.rule),
        verified=verified,
        expected=expected,
        settings={**searched, "finetune": {"settings": settings.as_dict(), **tuned.as_dict()}},
        extra=carried(backbone_graph.proto),
        tuned=tuned,
    )


def finished(output: Path) -> None:
    """Delete the run's folder, once its model is written."""
    (run_folder(output) / TUNED).unlink(missing_ok=True)
    discard(run_folder(output))
