"""The trained network, frozen or fine-tuned: its graph, its head and its logits.

Shapes: M validation photos, V of them for verification, T test photos, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tailorbird.dataset import Sample, pixels_of
from tailorbird.errors import ModelFileError
from tailorbird.head import Fit, Head, SearchResult
from tailorbird.images import ResizeRule
from tailorbird.inference import Runner
from tailorbird.model.graph import BackboneGraph
from tailorbird.preparation import evenly_spread
from tailorbird.progress import Progress
from tailorbird.training.calibration import Judged
from tailorbird.training.unfamiliarity import MOST_RUN, Fitted, fit_unfamiliarity

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
    runner = Runner(backbone_graph.proto, "the trained network", ModelFileError)
    logits, compared = [], []
    for row in runner.rows(samples, lambda sample: pixels_of(sample, rule), "features"):
        logits.append(head.logits(row[None]))
        wanted = backbone_graph.to_compare(row[None])
        compared.append(wanted if backbone_graph.can_compare else wanted[:, :0])
        if progress is not None:
            progress.advance(len(logits), len(samples))
    return Seen(np.concatenate(logits), np.concatenate(compared))


def unfamiliarity_of(
    backbone_graph: BackboneGraph,
    head: Head,
    train: Sequence[Sample],
    held: Mapping[str, Seen],
    rule: ResizeRule,
    *,
    refuse: float,
    seed: int,
) -> Fitted | None:
    """Fit the unfamiliarity of a network whose features of train are not known.

    None where nothing may be refused, or the network has too many features to compare.
    """
    if not (refuse and backbone_graph.can_compare):
        return None
    some = [train[i] for i in evenly_spread(len(train), MOST_RUN)]
    known = run_network(backbone_graph, head, some, rule).compared
    compared = {name: seen.compared for name, seen in held.items()}
    classes = len(head.layers[-1].bias)
    return fit_unfamiliarity(known, compared, classes=classes, refuse=refuse, seed=seed)
