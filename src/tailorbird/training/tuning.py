"""The step of the pipeline that trains the backbone too, or a small network from scratch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tailorbird import parallel
from tailorbird.backbone import Backbone
from tailorbird.backbone.combining import mirrored, mirrored_info
from tailorbird.dataset import picture_of, stacked_pixels
from tailorbird.engines.finetune.loop import discard, finetune
from tailorbird.engines.finetune.plan import single_size
from tailorbird.engines.finetune.settings import FROM_SCRATCH, FinetuneSettings
from tailorbird.engines.finetune.task import FinetuneTask
from tailorbird.engines.protocol import TrainableNetwork, Training
from tailorbird.engines.registry import carried, scratch_network
from tailorbird.errors import ModelFileError, TrainingError
from tailorbird.files import write_bytes
from tailorbird.head import Head, SearchResult
from tailorbird.inference import CPU, Runner
from tailorbird.metrics.calibration import softmax
from tailorbird.model.file import AGREEMENT
from tailorbird.model.graph import BackboneGraph
from tailorbird.preparation import PreparedData, evenly_spread
from tailorbird.training.mirroring import averaging_helps, without_harmful_flip
from tailorbird.training.network import (
    Logits,
    TrainedNetwork,
    run_network,
    search_settings,
    unfamiliarity_of,
    verification_rows,
)
from tailorbird.training.run import TrainingRun

TUNED = "tuned.backbone.onnx"
MEASURED_PHOTOS = 64
"""Training photos whose size decides about the default input size."""


def tune(
    run: TrainingRun, data: PreparedData, network: TrainableNetwork, found: SearchResult
) -> TrainedNetwork:
    """Fine-tune a pretrained network from the head found on its cached features.

    Raises what `finetune` raises.
    """
    assert data.embedder is not None and run.settings.finetune is not None
    info, settings = data.embedder.backbone.info, run.settings.finetune
    settings = _with_size(settings.for_network(network), network, data, info.size)
    task = FinetuneTask(
        network,
        data.parts,
        data.labels,
        found.best.head,
        without_harmful_flip(settings, data, found.best.head, run.progress),
        size=info.size,
        folder=run.folder,
        seed=run.settings.seed,
        classes=len(data.classes),
        features=data.features(data.parts["train"])[0],
        identity={"backbone": info.sha256, "framework": network.framework},
        host=run.host,
        rule=info.rule,
    )
    result = _fine_tuned(run, data, task)
    return replace(
        result,
        about={**result.about, "pretrained": {"name": info.name, "sha256": info.sha256}},
        settings={**search_settings(found), **result.settings},
        fit=found.best,
        search=found,
    )


def _with_size(
    settings: FinetuneSettings, network: TrainableNetwork, data: PreparedData, size: int
) -> FinetuneSettings:
    """Return the settings with the default size of a network that trains at one size.

    size: the backbone's own.
    """
    if settings.sizes is not None or not network.single_size:
        return settings
    samples = data.parts["train"]
    some = [samples[index] for index in evenly_spread(len(samples), MEASURED_PHOTOS)]
    pictures = parallel.ordered(lambda sample: picture_of(sample, size), some)
    side = int(np.median([min(picture.size) for picture in pictures]))
    return replace(settings, sizes=(single_size(network, size, side),))


def train_from_scratch(run: TrainingRun, data: PreparedData) -> TrainedNetwork:
    """Train a small network from random weights. Raises what `finetune` raises."""
    settings = run.settings.finetune or FROM_SCRATCH
    (size,) = settings.sizes or FROM_SCRATCH.sizes or ()
    network, head = scratch_network(
        run.settings.engine, size=size, classes=len(data.classes), seed=run.settings.seed
    )
    task = FinetuneTask(
        network,
        data.parts,
        data.labels,
        head,
        replace(settings, sizes=(size,), unfreeze="all").for_network(network),
        size=size,
        folder=run.folder,
        seed=run.settings.seed,
        classes=len(data.classes),
        identity={"backbone": network.name, "framework": network.framework},
        host=run.host,
    )
    return _fine_tuned(run, data, task)


def _fine_tuned(run: TrainingRun, data: PreparedData, task: FinetuneTask) -> TrainedNetwork:
    """Fine-tune and export the best weights.

    The framework itself computes the logits that the model file is compared with.
    """
    tuned = finetune(task, progress=run.progress)
    network, size = task.network, tuned.best.size
    backbone_graph, head = network.backbone_graph(size), network.head()
    # Opened from a file like any backbone, so that it is checked and hashed.
    path = run.folder / TUNED
    write_bytes(path, network.backbone(size).SerializeToString())
    info = replace(Backbone(path).info, rule=task.rule_at(size))
    # Computed from the pixels: the cached activations were rounded to float16.
    network.begin(Training(size=size, cut=0, regularisation=task.settings.regularisation))
    validation = data.parts["validation"]
    rows = verification_rows(len(validation))
    images = stacked_pixels([validation[index] for index in rows], info.rule)
    expected = np.concatenate(
        [network.logits(images[i : i + CPU.batch]) for i in range(0, len(images), CPU.batch)]
    )
    seen = {"validation": run_network(backbone_graph, head, validation, info.rule)}
    if run.settings.mirror:
        both, averaged = _mirrored(backbone_graph, head, images, expected)
        doubled = run_network(both, head, validation, info.rule)
        if averaging_helps(
            seen["validation"].logits, doubled.logits, data.labels["validation"], run.progress
        ):
            info, backbone_graph, expected = mirrored_info(info), both, averaged
            seen["validation"] = doubled
    seen["test"] = run_network(backbone_graph, head, data.parts["test"], info.rule)
    return TrainedNetwork(
        backbone_graph=backbone_graph,
        head=head,
        about=info.as_dict(),
        rule=info.rule,
        validation=seen["validation"].logits,
        test=seen["test"].logits,
        expected=expected,
        settings={"finetune": {"settings": task.settings.as_dict(), **tuned.as_dict()}},
        extra=carried(backbone_graph.proto),
        tuned=tuned,
        unfamiliarity=unfamiliarity_of(
            backbone_graph,
            head,
            data,
            seen,
            info.rule,
            refuse=run.settings.refuse,
            seed=run.settings.seed,
        ),
    )


def _mirrored(
    graph: BackboneGraph, head: Head, images: npt.NDArray[np.uint8], expected: Logits
) -> tuple[BackboneGraph, Logits]:
    """Return the graph that also sees the mirrored image, and its logits of these images.

    The framework saw the images alone, so that the graph for those is compared with it first.

    Args:
        graph: the fine-tuned backbone.
        head: its head.
        images: uint8 (V, S, S, 3).
        expected: the framework's logits (V, C).

    Raises TrainingError when the graph and the framework disagree.
    """
    runner = Runner(graph.proto, "the trained network", ModelFileError)
    plain, other = (
        runner.run(np.ascontiguousarray(view), ["features"])[0]
        for view in (images, images[:, :, ::-1])
    )
    gap = float(np.abs(softmax(head.logits(plain)) - softmax(expected)).max())
    if not gap < AGREEMENT:
        raise TrainingError(
            f"the exported network's probabilities differ from the framework's by up to {gap:.2g}, "
            f"{AGREEMENT:g} is allowed; no model was written"
        )
    return replace(graph, proto=mirrored(graph.proto)), head.logits(
        np.asarray((plain + other) / 2, np.float32)
    )


def delete_run(run: TrainingRun) -> None:
    """Delete the folder of the fine-tuning run, once its model is written."""
    (run.folder / TUNED).unlink(missing_ok=True)
    discard(run.folder)
