"""A labelling in progress: questions, answers, undo, the manifest, and training."""

from __future__ import annotations

import contextlib
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tailorbird.backbone import open_backbone
from tailorbird.dataset import Sample, printable
from tailorbird.dataset.labels import is_none_of_these, normal_label, typed_label
from tailorbird.dataset.table import Row, names_from
from tailorbird.errors import SettingsError, StorageError, TailorbirdError
from tailorbird.features import Embedder
from tailorbird.files import exclusive, write_bytes
from tailorbird.labelling.answers import Answer, Step, added
from tailorbird.labelling.gallery import Gallery, Reading, list_photos
from tailorbird.labelling.history import History
from tailorbird.labelling.manifest import labelled, manifest_text, read_manifest, text_hash
from tailorbird.labelling.outlook import Outlook, enough, look_ahead
from tailorbird.labelling.screens import Chooser, Labels, Screen
from tailorbird.labelling.settings import LabelSettings
from tailorbird.labelling.thumbnails import Thumbnails
from tailorbird.validation import Problems


class AnsweredMeanwhile(StorageError):
    """Another window has answered since this one was shown; nothing was saved."""


@dataclass(frozen=True, slots=True)
class Given:
    """One answer of a screen.

    photo: its number. answer: what the person said. seen: the answer that the window showed before;
    another present one means that another window has answered meanwhile.
    """

    photo: int
    answer: Answer
    seen: Answer | None = None


def default_manifest(photos: Path) -> Path:
    """Return the default manifest: `photos.labels.csv` beside the folder."""
    place = photos if photos.name not in ("", "..") else photos.resolve()
    return place.parent / f"{place.name or 'photos'}.labels.csv"


def default_model(manifest: Path) -> Path:
    """Return the model that the page's button trains: shop.onnx for shop.labels.csv."""
    stem = manifest.stem.removesuffix(".labels")
    return manifest.with_name(f"{stem or 'labels'}.onnx")


def open_labelling(
    photos: str | Path, manifest: str | Path | None = None, settings: LabelSettings | None = None
) -> Labelling:
    """Begin to label the photos of a folder, or continue.

    The photos are read in the background once `start` was called. Close the result.

    Args:
        photos: a folder; all photos below it are labelled.
        manifest: the CSV to write or to continue; None for `default_manifest`. Labels that it has
            already are kept. A history, which undo needs, is written beside it.
        settings: classes, backbone and so on; None: the defaults.

    Raises:
        DatasetError: the folder holds no photos, or the manifest is something else.
        SettingsError: an invalid name.
        BackboneError: the backbone's file breaks the contract.
        StorageError: a file cannot be written, or another process labels with this manifest.
    """
    source, settings = Path(photos), settings or LabelSettings()
    paths = list_photos(source, follow_links=settings.follow_links)
    target = Path(manifest) if manifest is not None else default_manifest(source)
    if target.suffix.lower() != ".csv" or target.is_dir():
        raise SettingsError(
            f"the manifest is {printable(str(target))!r}; give the name of a .csv file"
        )
    with Problems() as problems:
        problems.overlaps({"manifest": target}, inputs={}, photos=paths)
    busy = (
        f"{printable(str(target))} is being labelled by another process; use its page, in a second "
        "window if you like, or give another name with -o"
    )
    read_manifest(target)  # what is no manifest is refused before a lock file lies beside it
    with contextlib.ExitStack() as held:
        held.enter_context(exclusive(target.with_name(f".{target.stem}.lock"), busy))
        former = read_manifest(target)
        history = History(_beside(target, "history.jsonl"))
        backbone = open_backbone(settings.backbone, mirror=settings.mirror)
        gallery = Gallery(
            source, paths, Embedder(backbone), Thumbnails(), first=list(history.answers.by_name)
        )
        held.callback(gallery.close)
        labelling = Labelling(source, target, settings, gallery, history)
        labelling.take(former)
        held.callback(labelling.flush)
        labelling.release = held.pop_all().close
    return labelling


def _beside(manifest: Path, suffix: str) -> Path:
    return manifest.with_name(f"{manifest.stem}.{suffix}")


class Labelling:
    """Photos to label and the answers given; methods are thread-safe."""

    def __init__(
        self,
        source: Path,
        manifest: Path,
        settings: LabelSettings,
        gallery: Gallery,
        history: History,
    ) -> None:
        """Hold what `open_labelling` opened."""
        self.source = source
        self.manifest = manifest
        self.settings = settings
        self.gallery = gallery
        self.history = history
        self.notes: tuple[str, ...] = ()
        self.release: Callable[[], None] = lambda: None
        self._others: list[Row] = []
        self._paths = dict(zip(gallery.names, names_from(manifest, _samples(gallery)), strict=True))
        self._chooser = Chooser(gallery, settings.seed)
        self._lock = threading.RLock()
        self._choosing = threading.Lock()
        self._writing = threading.Lock()
        self._background = ThreadPoolExecutor(1, thread_name_prefix="labelling")
        self._stop = threading.Event()
        self._outlook = Outlook(0, 0, (0.0, 1.0))
        self._looked = (-1, -1)
        self._surveyor = threading.Thread(target=self._survey, name="survey", daemon=True)
        self.write_problem = ""

    # The start and the end

    def start(self) -> None:
        """Begin to read the photos in the background."""
        self.gallery.start()
        self._surveyor.start()

    def close(self) -> None:
        """Stop reading, write the manifest, and let another process label."""
        self._stop.set()
        if self._surveyor.ident is not None:
            self._surveyor.join()
        self._background.shutdown(wait=True, cancel_futures=True)
        self.release()

    def __enter__(self) -> Labelling:
        """Return this labelling."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def take(self, former: tuple[list[Row], str] | None) -> None:
        """Take the labels of a manifest that this history did not write, and of class folders.

        former: rows and SHA-256 of the manifest at the start.
        """
        notes = []
        answers = self.history.answers
        if self.history.cut:
            notes.append(
                f"the last answer was not written completely ({self.history.cut:,} bytes) and was "
                "left out"
            )
        if answers.by_name:
            notes.append(f"continues with {len(answers.by_name):,} answers")
        new = not answers.number
        if former is not None:
            rows, digest = former
            number = {path: name for name, path in self._paths.items()}
            self._others = [row for row in rows if row.path not in number]
            changed = {} if digest in self.history.manifests else self._changed(rows, number)
            if changed:
                self._record(
                    changed,
                    f"{len(changed):,} labels of {printable(self.manifest.name)}",
                    added(answers.classes, (a.label for a in changed.values() if a and a.label)),
                    asked=False,
                )
                notes.append(f"took {len(changed):,} labels from {printable(str(self.manifest))}")
        classes = added(answers.classes, self.settings.classes)
        if new and self.settings.classes:
            found = self._in_class_folders()
            if found:
                self._record(found, f"{len(found):,} photos in class folders", classes, asked=False)
                notes.append(f"{len(found):,} photos lie in folders of these classes")
        if classes != answers.classes:
            self._record({}, "classes of the command line", classes, asked=False)
        self.notes = tuple(notes)
        self._write()

    def _changed(self, rows: Sequence[Row], number: Mapping[str, str]) -> dict[str, Answer | None]:
        """Return the answers that a manifest written by somebody else gives."""
        answers = self.history.answers.by_name
        changed: dict[str, Answer | None] = {}
        listed = set()
        for row in rows:
            name = number.get(row.path)
            if name is None:
                continue
            listed.add(name)
            present = answers.get(name)
            blind = row.split in ("validation", "test") or bool(present and present.blind)
            if is_none_of_these(row.label):
                answer = Answer("none", blind=blind)
            else:
                answer = Answer("label", row.label, blind)
            if present is None or (present.kind, present.label) != (answer.kind, answer.label):
                changed[name] = answer
        for name, answer in answers.items():
            if answer.kind in ("label", "none") and name not in listed and name in self._paths:
                changed[name] = None
        return changed

    def _in_class_folders(self) -> dict[str, Answer | None]:
        answers, wanted = self.history.answers, self.settings.classes
        found: dict[str, Answer | None] = {}
        for name in self.gallery.names:
            folder = normal_label(printable(name.rpartition("/")[0]))
            label = next((c for c in wanted if folder == c or folder.endswith(f"/{c}")), None)
            if label is not None and name not in answers.by_name:
                found[name] = Answer("label", label)
        return found

    # Questions and answers

    def next_screen(self, window: str, only: str = "") -> Screen:
        """Return what a window shows next; other windows are not shown the same photos.

        window: any text that names the window. only: a class of which alone photos are proposed.
        """
        with self._choosing:
            return self._chooser.next_screen(self.history.answers, window, only)

    def answer(self, given: Sequence[Given]) -> Step:
        """Record the answers of a screen; return once they are on the disk.

        They are one step for `undo`.

        Raises:
            SettingsError: an invalid answer.
            AnsweredMeanwhile: another window has answered about one of the photos.
            StorageError: they could not be written; nothing has changed then.
        """
        with self._lock:
            answers: dict[str, Answer | None] = {}
            present = self.history.answers
            for one in given:
                if not 0 <= one.photo < len(self.gallery.names):
                    raise SettingsError(
                        f"there is no photo {one.photo}; valid: 0 to {len(self.gallery.names) - 1}"
                    )
                name = self.gallery.names[one.photo]
                if name in answers:
                    raise SettingsError(f"photo {one.photo} has two answers; send one")
                if one.answer.label and one.answer.label not in present.classes:
                    raise SettingsError(
                        f"there is no class {one.answer.label[:100]!r}; add it first"
                    )
                if present.by_name.get(name) != one.seen:
                    raise AnsweredMeanwhile(
                        f"{printable(name)} was answered in another window meanwhile; nothing of "
                        "this screen was saved"
                    )
                answers[name] = replace(one.answer, blind=self._chooser.is_blind(one.photo))
            if not answers:
                raise SettingsError("no answer was sent; name at least one photo")
            step = self._record(answers, _about(answers), present.classes)
        self._write_later()
        return step

    def undo(self, step: int) -> Step:
        """Take back the last step, which must be number `step`, and return it.

        Raises:
            AnsweredMeanwhile: it is not the last one any more.
            SettingsError: there is nothing to undo.
            StorageError: that could not be written; nothing has changed then.
        """
        with self._lock:
            last = self.history.answers.last
            if last is None:
                raise SettingsError("there is nothing to undo")
            if last.number != step:
                raise AnsweredMeanwhile(
                    f"another window has answered since; undo again to take back its last step: "
                    f"{last.about}"
                )
            undone = self.history.undo()
            assert undone is not None
        self._write_later()
        return undone

    def add_class(self, text: str) -> str:
        """Add a class and return its label; one that exists under this name is returned.

        Raises SettingsError for an invalid name, StorageError.
        """
        with self._lock:
            classes = self.history.answers.classes
            label = _class_label(text, classes)
            if label not in classes:
                self._record({}, f"added the class {label}", (*classes, label), asked=False)
        self._write_later()
        return label

    def rename_class(self, old: str, text: str) -> str:
        """Rename a class, or merge it into one that exists; return the label.

        Raises SettingsError for an unknown class or an invalid name, StorageError.
        """
        with self._lock:
            answers = self.history.answers
            if old not in answers.classes:
                raise SettingsError(f"there is no class {old[:100]!r}")
            others = tuple(name for name in answers.classes if name != old)
            new = _class_label(text, others)
            if new != old:
                verb = "merged" if new in others else "renamed"
                classes, changed = answers.renamed(old, new)
                what = f"{verb} {old} {'into' if new in others else 'to'} {new}"
                self._record(changed, what, classes, asked=False)
        self._write_later()
        return new

    # What was reached

    @property
    def reading(self) -> Reading:
        """How far the photos are read."""
        return self.gallery.reading()

    def outlook(self) -> Outlook:
        """Return the last outlook; a newer one is computed in the background when answers came."""
        with self._lock:
            key = (self.history.answers.number, int(self.gallery.usable.sum()))
            if key != self._looked and not self._stop.is_set():
                self._looked = key
                with contextlib.suppress(RuntimeError):  # it is being closed
                    self._background.submit(self._look)
        return self._outlook

    @property
    def last_outlook(self) -> Outlook:
        """The last outlook that was computed."""
        return self._outlook

    def look(self) -> Outlook:
        """Compute the outlook now and return it."""
        self._look()
        return self._outlook

    @property
    def can_train(self) -> bool:
        """Whether there are enough labels to train on."""
        return enough(list(self.history.answers.counts().values()))

    @property
    def train_command(self) -> str:
        """The shell command that trains on the manifest."""
        words = ["tailorbird", "train", printable(str(self.manifest)), "-o", str(self.model)]
        return shlex.join(words)

    @property
    def model(self) -> Path:
        """The model file that the page's button writes."""
        return default_model(self.manifest)

    def flush(self) -> None:
        """Write the manifest now. Raises StorageError."""
        self._write()

    # Inside

    def _record(
        self,
        answers: Mapping[str, Answer | None],
        about: str,
        classes: tuple[str, ...],
        *,
        asked: bool = True,
    ) -> Step:
        step = Step(self.history.answers.number + 1, classes, answers, about, asked)
        self.history.record(step)
        return step

    def _write_later(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._background.submit(self._write_quietly)

    def _write_quietly(self) -> None:
        try:
            self._write()
            self.write_problem = ""
        except TailorbirdError as error:
            self.write_problem = str(error)

    def _write(self) -> None:
        """Write the manifest, if it differs from what was written last."""
        with self._writing:
            with self._lock:
                answers = dict(self.history.answers.by_name)
            photos = labelled(
                {name: a for name, a in answers.items() if name in self._paths},
                self._copies(answers),
            )
            text = manifest_text(photos, self._paths, self._others)
            digest = text_hash(text)
            with self._lock:
                self.history.wrote(digest)
            write_bytes(self.manifest, text)

    def _copies(self, answers: Mapping[str, Answer]) -> dict[str, list[str]]:
        """Return the other photos that show the same picture, by the name of an answered one."""
        gallery = self.gallery
        members = gallery.groups()
        found = {}
        for name in answers:
            photo = gallery.number.get(name)
            group = members.get(gallery.same(photo), ()) if photo is not None else ()
            if len(group) > 1:
                found[name] = [gallery.names[i] for i in group if i != photo]
        return found

    def _survey(self) -> None:
        """Survey the photos again whenever enough of them were read."""
        while not self._stop.wait(0.1):
            if self._chooser.needs_survey():
                self._chooser.survey(self.history.answers)

    def _look(self) -> None:
        with self._lock:
            labels = Labels.of(self.history.answers, self.gallery)
        photos, classes = labels.part(blind=False)
        blind, true = labels.part(blind=True)
        if len(labels.classes) < 2:
            self._outlook = Outlook(0, len(blind), (0.0, 1.0))
            return
        features = self.gallery.features
        self._outlook = look_ahead(
            features[photos].astype("float32"),
            classes,
            features[blind].astype("float32"),
            true,
            len(labels.classes),
            seed=self.settings.seed,
        )


def _class_label(text: str, known: Sequence[str]) -> str:
    """Return the label of a typed class. Raises SettingsError."""
    label = typed_label(text, known)
    if is_none_of_these(label):
        raise SettingsError(f"{label!r} is no class: answer with the key N, or that button")
    return label


def _samples(gallery: Gallery) -> list[Sample]:
    """Return stand-ins of samples that have a path; the digests are not known yet."""
    return [
        Sample(path, "unlabelled", None, "0" * 64, name)
        for path, name in zip(gallery.paths, gallery.names, strict=True)
    ]


def _about(answers: Mapping[str, Answer | None]) -> str:
    """Return what a step was, in words."""
    if len(answers) > 1:
        return f"{len(answers):,} photos"
    ((name, answer),) = answers.items()
    said = (answer.label or answer.kind) if answer else "no answer"
    return f"{printable(name)}: {said}"
