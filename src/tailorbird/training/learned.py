"""What was learned, by whichever way: the parts of the model's graph, and the logits that calibrate, test and verify it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird.dataset import Sample, pixels_of
from tailorbird.errors import ModelFileError
from tailorbird.head import Fit, Head, SearchResult
from tailorbird.images import ResizeRule
from tailorbird.inference import Runner
from tailorbird.model.graph import BackboneGraph, build

if TYPE_CHECKING:
    from tailorbird.engines.finetune.results import FinetuneResult

Logits = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Learned:
    """A network, its head, and what they say.

    about: the backbone for the metadata. rule: how photos are resized. validation: logits (M, C) of all validation photos, those
    the calibration is made on. test: logits (T, C). verified: the validation photos the file is verified on, as indices (V,), and
    expected: what the pipeline, the framework itself where there was one, says of them: logits (V, C). settings: for the metadata.
    extra: further metadata entries of the file.
    """

    backbone_graph: BackboneGraph
    head: Head
    about: dict[str, Any]
    rule: ResizeRule
    validation: Logits
    test: Logits
    verified: npt.NDArray[np.int64]
    expected: Logits
    settings: dict[str, Any]
    extra: Mapping[str, str] = field(default_factory=dict)
    fit: Fit | None = None
    search: SearchResult | None = None
    tuned: FinetuneResult | None = None


def search_settings(found: SearchResult) -> dict[str, Any]:
    """The chosen head's settings, and those of the heads it is the mean of, as JSON has them."""
    best, members = found.best, found.members
    return {
        **_plain(asdict(best.settings)),
        "blend": [_plain(asdict(member.settings)) for member in members],
    }


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()
    }


def logits_of(
    backbone_graph: BackboneGraph, head: Head, samples: Sequence[Sample], rule: ResizeRule
) -> Logits:
    """What a backbone graph and a head say of photos, float32 (N, C), run as the model file will be: on all cores, nothing kept on disk.

    The logits are those up to a constant a photo, which no probability depends on.
    """
    runner = Runner(build(backbone_graph, head, 1.0), "the trained network", ModelFileError)
    rows = runner.rows(samples, lambda sample: pixels_of(sample, rule), "probabilities")
    logits: Logits = np.log(np.maximum(np.stack(list(rows)), np.finfo(np.float32).tiny))
    return logits
