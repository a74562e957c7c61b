"""The trained network, frozen or fine-tuned: its graph, its head and its logits.

Shapes: M validation photos, V of them for verification, T test photos, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tailorbird.dataset import NONE_OF_THESE, Sample, pixels_of
from tailorbird.errors import ModelFileError
from tailorbird.head import Fit, Head, SearchResult
from tailorbird.images import ResizeRule, resize
from tailorbird.inference import Runner, open_runner
from tailorbird.model.fitting import MOST_RUN, Fitted, Known, fit_unfamiliarity
from tailorbird.model.graph import BackboneGraph
from tailorbird.preparation import PreparedData, evenly_spread
from tailorbird.progress import Progress
from tailorbird.rendering.strangers import draw_strangers
from tailorbird.training.calibration import Judged

if TYPE_CHECKING:
    from tailorbird.engines.finetune.results import FinetuneResult

Logits = npt.NDArray[np.floating[Any]]

VERIFIED_PHOTOS: Final = 32
"""Validation photos on which the finished file is compared with the pipeline."""


@dataclass(frozen=True)
class TrainedNetwork:
    """A backbone graph with a head, and its logits.

    Attributes:
        backbone_graph: from pixels to features.
        head: from features to logits.
        about: the backbone, for the metadata.
        rule: how photos are resized.
        validation: logits (M, C), which the calibration uses.
        test: logits (T, C).
        expected: logits (V, C) of the verification photos, computed by the pipeline; by the
            framework itself where there is one.
        settings: for the metadata.
        extra: further metadata entries of the model file.
        fit: the chosen head on frozen features; None from scratch.
        search: all heads that were tried; None from scratch.
        tuned: the fine-tuning run; None for a frozen backbone.
        crossfitted: photos of train and validation to choose the threshold on; None: validation's.
        unfamiliarity: of photos unlike those of train; None: the model has no such score.
    """

    backbone_graph: BackboneGraph
    head: Head
    about: dict[str, Any]
    rule: ResizeRule
    validation: Logits
    test: Logits
    expected: Logits
    settings: dict[str, Any]
    extra: Mapping[str, str] = field(default_factory=dict)
    fit: Fit | None = None
    search: SearchResult | None = None
    tuned: FinetuneResult | None = None
    crossfitted: Judged | None = None
    unfamiliarity: Fitted | None = None


def verification_rows(count: int) -> npt.NDArray[np.int64]:
    """Return the indices of at most VERIFIED_PHOTOS of `count` photos, evenly spread.

    Photos are sorted by class, so that all classes are among them.
    """
    return evenly_spread(count, VERIFIED_PHOTOS)


def search_settings(found: SearchResult) -> dict[str, Any]:
    """Return the settings of the chosen head and of the heads it averages, for JSON."""
    blend = [_plain(asdict(member.settings)) for member in found.members]
    return {**_plain(asdict(found.best.settings)), "blend": blend}


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()
    }


class Seen(NamedTuple):
    """What a network makes of N photos.

    logits: float32 (N, C). compared: features that unfamiliarity compares, float32 (N, K); width 0
    where the network has too many.
    """

    logits: npt.NDArray[np.float32]
    compared: npt.NDArray[np.float32]


def run_network(
    backbone_graph: BackboneGraph,
    head: Head,
    samples: Sequence[Sample],
    rule: ResizeRule,
    progress: Progress | None = None,
) -> Seen:
    """Run a network on photos, computed as the model file will; progress counts them."""
    runner = _opened(backbone_graph)
    logits, compared = [], []
    for row in runner.rows(samples, lambda sample: pixels_of(sample, rule), "features"):
        logits.append(head.logits(row[None]))
        wanted = backbone_graph.to_compare(row[None])
        compared.append(wanted if backbone_graph.can_compare else wanted[:, :0])
        if progress is not None:
            progress.advance(len(logits), len(samples))
    if not samples:
        width = backbone_graph.compared if backbone_graph.can_compare else 0
        outputs = len(head.layers[-1].bias)
        return Seen(np.zeros((0, outputs), np.float32), np.zeros((0, width), np.float32))
    return Seen(np.concatenate(logits), np.concatenate(compared))


def unfamiliarity_of(
    network: BackboneGraph,
    head: Head,
    data: PreparedData,
    held: Mapping[str, Seen],
    rule: ResizeRule,
    *,
    refuse: float,
    seed: int,
) -> Fitted | None:
    """Fit the unfamiliarity of a network that was trained on the photos of train itself.

    They are run through it once more. None where nothing may be refused, or the network has too
    many features to compare.
    """
    if not (refuse and network.can_compare):
        return None
    rows = evenly_spread(len(data.parts["train"]), MOST_RUN)
    some = [data.parts["train"][i] for i in rows]
    taught, others = (run_network(network, head, some, rule).compared for some in none_photos(data))
    strangers = {
        kind: _compared(network, np.stack([resize(picture, rule) for picture in pictures]))
        for kind, pictures in draw_strangers().items()
    }
    known = Known(
        run_network(network, head, some, rule).compared,
        data.labels["train"][rows],
        len(data.classes),
        taught,
    )
    compared = {name: seen.compared for name, seen in held.items()}
    strangers[NONE_OF_THESE] = others
    return fit_unfamiliarity(known, compared, strangers, refuse=refuse, seed=seed)


def _compared(network: BackboneGraph, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return network.to_compare(_opened(network).run(images, ["features"])[0])


def _opened(network: BackboneGraph) -> Runner:
    """Open the network on the device asked for."""
    name = "the trained network"
    return open_runner(network.proto, name, ModelFileError, outputs=["features"])


def none_photos(data: PreparedData) -> tuple[list[Sample], list[Sample]]:
    """Return the photos of no class that teach, and the others, which show what it has learned."""
    others = [sample for name in ("validation", "test") for sample in data.none.get(name, ())]
    return list(data.none.get("train", ())), others
