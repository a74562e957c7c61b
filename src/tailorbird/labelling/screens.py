"""The next screen: which photos, with which proposals, for which window."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from tailorbird.labelling.answers import Answer, Answers
from tailorbird.labelling.choosing import START, Proposals, diverse, instructive
from tailorbird.labelling.gallery import Gallery, order_key
from tailorbird.labelling.landscape import Landscape, survey
from tailorbird.labelling.learning import probabilities, train_head

ScreenKind = Literal["ask", "sheet", "wait", "done"]

HELD_SHARE: Final = 0.15
MOST_HELD: Final = 600
"""Photos that are kept for blind questions: this share of the folder, at most so many."""

BLIND_SHARE: Final = 0.2
"""Blind answers wanted for each label."""

BLIND_AT_ONCE: Final = 8

POOL: Final = 20_000
"""Photos among which the next ones are chosen: of a larger folder, a random part."""

GROWTH: Final = 1.3
"""The landscape is surveyed again once so many times as many photos are read."""

RESERVED: Final = 600.0
"""Seconds for which a photo that one window shows is not shown in another."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A photo of a screen.

    photo: its number. proposal: the proposed class, or empty. probability: of the proposal. now:
    its present answer.
    """

    photo: int
    proposal: str = ""
    probability: float = 0.0
    now: Answer | None = None


@dataclass(frozen=True, slots=True)
class Screen:
    """What a window shows next.

    kind: `ask` photos one by one without a proposal; `sheet` of photos with proposals; `wait` until
    photos are read; `done`, every photo has an answer. blind: whether they are of the random
    sample.
    """

    kind: ScreenKind
    photos: tuple[Asked, ...] = ()
    blind: bool = False


@dataclass
class Labels:
    """Answers as arrays: numbers of photos and their classes, in the order of the answers."""

    classes: tuple[str, ...]
    photos: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    blind: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, answers: Answers, gallery: Gallery) -> Labels:
        """Return the labels of photos that are read."""
        used = [name for name, count in answers.counts().items() if count]
        number = {name: i for i, name in enumerate(used)}
        rows = [
            (gallery.number[name], number[answer.label], answer.blind)
            for name, answer in answers.by_name.items()
            if answer.kind == "label" and name in gallery.number
        ]
        rows = [row for row in rows if gallery.usable[row[0]]]
        photos, labels, blind = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(
            tuple(used),
            np.array(photos, np.int64),
            np.array(labels, np.int64),
            np.array(blind, bool),
        )

    def part(self, blind: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return photos and labels of the blind sample, or of the others."""
        kept = self.blind == blind
        return self.photos[kept], self.labels[kept]


@dataclass
class Chooser:
    """Chooses screens from a gallery and the answers; one thread at a time."""

    gallery: Gallery
    seed: int = 0
    landscape: Landscape | None = None
    _surveyed: int = 0
    _roots: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _version: int = -1
    _held: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _reserved: dict[int, tuple[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = self.gallery.names
        count = min(round(HELD_SHARE * len(names)), MOST_HELD)
        order = sorted(range(len(names)), key=lambda i: order_key("blind", names[i]))
        self._held = np.array(order[:count], np.int64)

    def is_blind(self, photo: int) -> bool:
        """Whether a photo is of the random sample, about which nothing is proposed."""
        return bool(self._is_held()[photo])

    def needs_survey(self) -> bool:
        """Whether enough photos were read since the last survey."""
        usable = int(self.gallery.usable.sum())
        reading = self.gallery.reading()
        return usable > self._surveyed and (usable >= GROWTH * self._surveyed or reading.finished)

    def survey(self, answers: Answers) -> Landscape:
        """Survey the photos that are read: those with a label, and a part of the others."""
        usable = self.gallery.usable.copy()
        free = usable & ~self._is_held() & ~self._answered(answers)
        others = np.flatnonzero(free)
        if len(others) > POOL:
            picked = np.random.default_rng(self.seed).choice(len(others), POOL, replace=False)
            others = others[np.sort(picked)]
        photos, _ = Labels.of(answers, self.gallery).part(blind=False)
        known = np.union1d(others, photos).astype(np.int64)
        found = survey(known, self.gallery.features, seed=self.seed)
        self.landscape, self._surveyed = found, int(usable.sum())
        return found

    def next_screen(self, answers: Answers, window: str, only: str = "") -> Screen:
        """Return the next screen of a window, and reserve its photos.

        only: a class of which alone photos are proposed.
        """
        self._release(window)
        labels = Labels.of(answers, self.gallery)
        screen = (self._blind_due(answers, labels) if not only else None) or self._open(
            answers, labels, only
        )
        until = time.monotonic() + RESERVED
        for asked in screen.photos:
            self._reserved[asked.photo] = (window, until)
        names, present = self.gallery.names, answers.by_name
        photos = (replace(asked, now=present.get(names[asked.photo])) for asked in screen.photos)
        return replace(screen, photos=tuple(photos))

    def _open(self, answers: Answers, labels: Labels, only: str) -> Screen:
        """Return a screen of photos that may have proposals."""
        free = self._free(answers)
        if not free.any():
            return self._nothing(answers)
        landscape = self.landscape
        stale = self.gallery.reading().finished and self.needs_survey()
        if landscape is None or stale or not free[landscape.photos].any():
            landscape = self.survey(answers)
        open_ = free[landscape.photos]
        photos, classes = labels.part(blind=False)
        seed = self.seed + answers.number
        if len(photos) < START or len(np.unique(classes)) < 2:
            found = diverse(landscape, open_, max(4, START - len(photos)), seed=seed)
            return self._screen("ask", landscape, found, labels.classes)
        head = train_head(self._features(photos), classes, len(labels.classes), seed=self.seed)
        beliefs = probabilities(head, self._features(landscape.photos))
        at = landscape.positions(photos)
        found = instructive(
            landscape,
            beliefs,
            open_,
            at[at >= 0],
            classes[at >= 0],
            only=labels.classes.index(only) if only in labels.classes else None,
            seed=seed,
        )
        if not len(found.positions):
            return Screen("done") if only else self._nothing(answers)
        return self._screen("sheet", landscape, found, labels.classes)

    def _screen(
        self, kind: ScreenKind, landscape: Landscape, found: Proposals, classes: tuple[str, ...]
    ) -> Screen:
        photos = landscape.photos[found.positions].tolist()
        return Screen(
            kind,
            tuple(
                Asked(photo, classes[proposed] if proposed >= 0 else "", float(probability))
                for photo, proposed, probability in zip(
                    photos, found.classes.tolist(), found.probabilities.tolist(), strict=True
                )
            ),
        )

    def _blind_due(self, answers: Answers, labels: Labels) -> Screen | None:
        """Return a screen of blind questions, if there are too few blind answers."""
        given = int(labels.blind.sum())
        count = len(labels.blind) - given
        if count < START or given >= BLIND_SHARE * count:
            return None
        photos = self._blind_left(answers)
        return Screen("ask", tuple(map(Asked, photos[:BLIND_AT_ONCE])), True) if photos else None

    def _blind_left(self, answers: Answers) -> list[int]:
        """Return photos of the random sample that are read and have no answer."""
        taken = self._answered(answers, skipped=False)
        later = {
            self.gallery.number[name]
            for name, answer in answers.by_name.items()
            if answer.kind == "skip" and name in self.gallery.number
        }
        busy = self._busy()
        left = [
            photo
            for photo in self._held.tolist()
            if self.gallery.usable[photo] and not taken[photo] and photo not in busy
        ]
        return sorted(left, key=lambda photo: photo in later)

    def _nothing(self, answers: Answers) -> Screen:
        """Return what to show where no photo can be proposed: skipped ones, blind ones, or none."""
        reading = self.gallery.reading()
        if not reading.finished and not reading.problem:
            return Screen("wait")
        blind = self._blind_left(answers)
        if blind:
            return Screen("ask", tuple(map(Asked, blind[:BLIND_AT_ONCE])), True)
        free = np.flatnonzero(self._free(answers, skipped=True)).tolist()
        if not free:
            return Screen("done")
        return Screen("ask", tuple(map(Asked, free[:START])))

    def _free(self, answers: Answers, *, skipped: bool = False) -> npt.NDArray[np.bool_]:
        """Return the photos that may be shown with a proposal, bool (N,), one of each picture.

        skipped: also those that a person wanted to be asked about later.
        """
        free = (
            self.gallery.usable & ~self._is_held() & ~self._answered(answers, skipped=not skipped)
        )
        # Of copies only the first that is read is asked about.
        places = np.flatnonzero(free)
        _, first = np.unique(self._same()[places], return_index=True)
        result = np.zeros(len(free), bool)
        result[places[first]] = True
        result[list(self._busy())] = False
        return result

    def _answered(self, answers: Answers, *, skipped: bool = True) -> npt.NDArray[np.bool_]:
        """Return the photos of which a copy has an answer, bool (N,).

        skipped: whether `skip` counts as an answer.
        """
        numbers = [
            self.gallery.number[name]
            for name, answer in answers.by_name.items()
            if name in self.gallery.number and (skipped or answer.kind != "skip")
        ]
        same = self._same()
        return np.isin(same, same[numbers])

    def _is_held(self) -> npt.NDArray[np.bool_]:
        """Return the photos of the random sample and their copies, bool (N,)."""
        same = self._same()
        return np.isin(same, same[self._held])

    def _same(self) -> npt.NDArray[np.int64]:
        version = self.gallery.version
        if version != self._version:
            self._roots, self._version = self.gallery.roots(), version
        return self._roots

    def _features(self, photos: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return self.gallery.features[photos].astype(np.float32)

    def _busy(self) -> set[int]:
        """Return the photos that windows show at present."""
        now = time.monotonic()
        self._reserved = {p: (w, until) for p, (w, until) in self._reserved.items() if until > now}
        return set(self._reserved)

    def _release(self, window: str) -> None:
        self._reserved = {p: (w, until) for p, (w, until) in self._reserved.items() if w != window}
