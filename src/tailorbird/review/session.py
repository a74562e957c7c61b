"""A review under way: its items, what was decided, and the way back."""

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
"""Decisions that can be taken back."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision about one photo: its index, one of DECISIONS or empty for none, and for relabel the new label."""

    photo: int
    decision: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class ReviewCounts:
    """Photos by decision, and items: an item is done when each of its photos has a decision."""

    keep: int
    relabel: int
    exclude: int
    items: int
    done: int


class Review:
    """Items to decide about, and the manifest the decisions go to. Every method may be called from any thread."""

    def __init__(
        self,
        source: Path,
        dataset: Dataset,
        items: Sequence[Item],
        judged: Mapping[Sample, Suspect],
        manifest: Manifest,
        notes: Sequence[str] = (),
    ) -> None:
        """source: what is reviewed. judged: what is known of labels. notes: what a person should hear at the start."""
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
        """Take decisions about photos of one item; together they are one step that `undo` takes back.

        Returns when they are on the disk. Raises SettingsError for what cannot be decided (nothing has changed then), and
        StorageError when they could not be written (nor then).
        """
        changes = self._checked(item, choices)
        before = self.manifest.change(changes)
        with self._lock:
            self._past.append((item, before))

    def undo(self) -> tuple[int, tuple[int, ...]] | None:
        """Take the last step back; its item and the photos that changed, None where there is nothing to take back.

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
        """Whether there is a step to take back."""
        return bool(self._past)

    def counts(self) -> ReviewCounts:
        """How far it is."""
        rows = self.manifest.rows()
        counts = Counter(row.decision for row in rows)
        done = sum(all(rows[photo].decision for photo in item.photos) for item in self.items)
        return ReviewCounts(
            counts["keep"], counts["relabel"], counts["exclude"], len(self.items), done
        )

    @property
    def train_command(self) -> str:
        """The command that trains on the manifest, as a shell takes it."""
        return f"tailorbird train {shlex.quote(printable(str(self.manifest.path)))}"

    def _checked(self, item: int, choices: Sequence[Choice]) -> dict[int, Row]:
        if not 0 <= item < len(self.items):
            raise SettingsError(
                f"there is no item {item}; there are {len(self.items):,}, counted from 0"
            )
        if not choices:
            raise SettingsError("there is nothing to decide: no photo is named")
        changes: dict[int, Row] = {}
        for choice in choices:
            if choice.photo not in self.items[item].photos:
                raise SettingsError(f"photo {choice.photo} is not one of item {item}")
            if choice.photo in changes:
                raise SettingsError(f"photo {choice.photo} is decided about twice")
            if choice.decision not in ("", *DECISIONS):
                raise SettingsError(
                    f"the decision is {choice.decision!r}; it must be {', '.join(DECISIONS)} or empty"
                )
            if choice.decision == "relabel" and choice.label not in self._known:
                raise SettingsError(
                    f"there is no class {choice.label[:100]!r}; a photo can be given one of the {len(self.classes):,} there are"
                )
            changes[choice.photo] = decided(
                self.manifest.row(choice.photo), choice.decision, choice.label
            )
        return changes
