"""A review in progress: its items, its decisions, and undo."""

from __future__ import annotations

import shlex
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tailorbird.dataset import Dataset, Sample, printable
from tailorbird.dataset.table import DECISIONS, Row
from tailorbird.errors import SettingsError
from tailorbird.label_errors import Suspect
from tailorbird.review.items import Item
from tailorbird.review.manifest import Manifest, decided

MOST_UNDONE: Final = 10_000
"""Maximum number of steps that can be undone."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision about one photo.

    photo: its index. decision: one of DECISIONS, or empty for none. label: the new label for
    `relabel`.
    """

    photo: int
    decision: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class ReviewCounts:
    """Numbers of photos by decision, and of items; a done item has all its photos decided."""

    keep: int
    relabel: int
    exclude: int
    items: int
    done: int


class Review:
    """Items to decide about, and the manifest with the decisions; methods are thread-safe."""

    def __init__(
        self,
        source: Path,
        dataset: Dataset,
        items: Sequence[Item],
        judged: Mapping[Sample, Suspect],
        manifest: Manifest,
        notes: Sequence[str] = (),
    ) -> None:
        """Begin with `items`.

        source: the dataset's path. judged: judgements of labels. notes: messages for the start.
        """
        self.source = source
        self.dataset = dataset
        self.items = tuple(items)
        self.judged = judged
        self.manifest = manifest
        self.notes = tuple(notes)
        self.classes = tuple(sorted({*dataset.classes, *(row.label for row in manifest.rows())}))
        self._known = frozenset(self.classes)
        self._past: deque[tuple[int, dict[int, Row]]] = deque(maxlen=MOST_UNDONE)
        self._lock = threading.Lock()

    def decide(self, item: int, choices: Sequence[Choice]) -> None:
        """Decide about photos of one item; return once the decisions are on the disk.

        They are one step for `undo`.

        Raises SettingsError for an invalid decision, StorageError when they could not be written;
        nothing has changed then.
        """
        changes = self._checked(item, choices)
        before = self.manifest.change(changes)
        with self._lock:
            self._past.append((item, before))

    def undo(self) -> tuple[int, tuple[int, ...]] | None:
        """Undo the last step; return its item and the changed photos, or None without a step.

        Raises StorageError when that could not be written; the step can be undone again then.
        """
        with self._lock:
            if not self._past:
                return None
            item, before = step = self._past.pop()
        try:
            self.manifest.change(before)
        except BaseException:
            with self._lock:
                self._past.append(step)
            raise
        return item, tuple(before)

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to undo."""
        return bool(self._past)

    def counts(self) -> ReviewCounts:
        """Return the progress of the review."""
        rows = self.manifest.rows()
        counts = Counter(row.decision for row in rows)
        done = sum(all(rows[photo].decision for photo in item.photos) for item in self.items)
        return ReviewCounts(
            counts["keep"], counts["relabel"], counts["exclude"], len(self.items), done
        )

    @property
    def train_command(self) -> str:
        """The shell command that trains on the manifest."""
        return f"tailorbird train {shlex.quote(printable(str(self.manifest.path)))}"

    def _checked(self, item: int, choices: Sequence[Choice]) -> dict[int, Row]:
        if not 0 <= item < len(self.items):
            raise SettingsError(f"there is no item {item}; valid: 0 to {len(self.items) - 1}")
        if not choices:
            raise SettingsError("no decision was sent; name at least one photo")
        changes: dict[int, Row] = {}
        for choice in choices:
            if choice.photo not in self.items[item].photos:
                raise SettingsError(f"photo {choice.photo} does not belong to item {item}")
            if choice.photo in changes:
                raise SettingsError(f"photo {choice.photo} has two decisions; send one")
            if choice.decision not in ("", *DECISIONS):
                raise SettingsError(
                    f"the decision is {choice.decision!r}; it must be {', '.join(DECISIONS)} or "
                    "empty"
                )
            if choice.decision == "relabel" and choice.label not in self._known:
                raise SettingsError(
                    f"there is no class {choice.label[:100]!r}; choose one of the "
                    f"{len(self.classes):,} classes of the dataset"
                )
            changes[choice.photo] = decided(
                self.manifest.row(choice.photo), choice.decision, choice.label
            )
        return changes
