"""State that the steps of a training share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.backbone import Backbone
from tailorbird.corrections import Labelled
from tailorbird.dataset.layout import Layout
from tailorbird.dataset.scanner import Elsewhere
from tailorbird.engines.finetune.task import Host
from tailorbird.features import Embedder
from tailorbird.progress import Progress, StageTimer
from tailorbird.training.settings import TrainSettings

if TYPE_CHECKING:
    from tailorbird.engines.protocol import TrainableNetwork


OpensElsewhere = Callable[[Backbone], Elsewhere]
"""Returns processes that read and embed photos with a backbone."""


@dataclass(frozen=True)
class TrainingRun:
    """A running training: the model file to write, the settings, progress and timing.

    elsewhere: returns processes that read and embed the photos; None: this one does.
    host: what fine-tunes in place of this process, if anything does.
    """

    output: Path
    settings: TrainSettings
    progress: Progress
    timer: StageTimer
    elsewhere: OpensElsewhere | None = None
    host: Host = field(default_factory=Host)

    @property
    def folder(self) -> Path:
        """The folder of an unfinished fine-tuning run."""
        return self.output.with_name(f"{self.output.name}.finetune")


@dataclass(frozen=True)
class Opened:
    """The opened inputs.

    layout: the files of the photos.
    embedder: of the backbone; None from scratch.
    network: the backbone in its framework, where it is fine-tuned.
    corrections: those that join the training photos.
    """

    layout: Layout
    embedder: Embedder | None
    network: TrainableNetwork | None
    corrections: Labelled | None
