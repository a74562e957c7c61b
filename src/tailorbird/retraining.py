"""Retrain a model in use: train, compare with the model in place, replace it if not worse.

Everything that a retraining keeps lies in one folder beside the model, `shop.models` for
`shop.onnx`: the models that were replaced, and a candidate that did not replace anything.
"""

from __future__ import annotations

import datetime
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from tailorbird.comparison import Comparison, compare
from tailorbird.dataset import DataSettings, listed_photos
from tailorbird.errors import ModelFileError, RunError, SettingsError, StorageError
from tailorbird.files import atomic_path, exclusive, sha256_file, storage_error, write_bytes
from tailorbird.model import Classifier, ModelInfo
from tailorbird.model.fitting import REFUSE
from tailorbird.progress import NoProgress, Progress
from tailorbird.training import TrainResult, TrainSettings, train
from tailorbird.validation import Problems, merge

Decision = Literal["replaced", "kept-candidate", "unchanged", "worse"]
"""What a retraining did; see `Retraining`."""

CANDIDATE: Final = "candidate.onnx"
PHOTOS: Final = "candidate.photos.csv"
REPORT: Final = "candidate.report.html"
"""Names of the new model, of its photos with their splits, and of its report in the folder."""

_KEPT: Final = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{12}\.onnx")
"""Name of a replaced model: when it was replaced, and the start of its SHA-256."""


@dataclass(frozen=True)
class RetrainSettings:
    """Settings of `retrain`.

    Attributes:
        corrections: database of people's corrections, a path or URL, or `off`; None: shop.db beside
            shop.onnx where there is one.
        corrections_photos: folder of their photos, as in TrainSettings.
        none: folder of photos of no class, as in TrainSettings.
        training: settings of the training; None: those of the model in place. Its seed must be
            that of the model in place, which keeps the splits.
        backbone: backbone to use instead of the one in `training` or of the model in place.
        tolerance: accuracy that the new model may lose on the compared photos, 0 to 1; a
            significant loss is never accepted.
        keep: number of replaced models to keep, 1 to 1,000.
        replace: False: train and compare only; the new model stays in the folder as a candidate.
        data: how the folder or CSV of photos is read.
    """

    corrections: str | Path | None = None
    corrections_photos: str | Path | None = None
    none: str | Path | None = None
    training: TrainSettings | None = None
    backbone: str | Path | None = None
    tolerance: float = 0.01
    keep: int = 3
    replace: bool = True
    data: DataSettings | None = None

    def __post_init__(self) -> None:
        """Raise one SettingsError that names every problem."""
        with Problems() as problems:
            problems.number("tolerance", self.tolerance, 0, 1)
            problems.whole("keep", self.keep, 1, 1000)


@dataclass(frozen=True)
class Retraining:
    """The result of `retrain`.

    Attributes:
        model: the model in place.
        decision: `replaced`; `kept-candidate`: not worse, but replacing was not asked for;
            `unchanged`: nothing new to learn from; `worse`: the model in place stays.
        reason: the reason as a sentence.
        candidate: file of the new model where it did not replace the one in place, else None.
        kept: the replaced models that are kept, newest first.
        trained: the training. comparison: of the model in place (A) with the new one (B), None if
            the training gave nothing to compare.
        reloaded: whether a running service was reloaded.
    """

    model: Path
    decision: Decision
    reason: str
    candidate: Path | None
    kept: tuple[Path, ...]
    trained: TrainResult
    comparison: Comparison | None
    reloaded: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `retrain --json`."""
        corrections = self.trained.corrections
        return {
            "model": str(self.model),
            "decision": self.decision,
            "reason": self.reason,
            "candidate": str(self.candidate) if self.candidate else None,
            "kept": [str(path) for path in self.kept],
            "reloaded": self.reloaded,
            "corrections": corrections.as_dict() if corrections else None,
            "comparison": self.comparison.as_dict() if self.comparison else None,
        }


def retrain(
    model: str | Path,
    photos: str | Path,
    settings: RetrainSettings | None = None,
    *,
    reload: Callable[[str], None] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Retraining:
    """Train a model again with corrections and put it in place if it is not worse.

    The new model is trained with the settings and the seed of the model in place, so that the test
    photos are the same and neither model was trained or chosen on them; `compare` tests both on
    these. The file in place is replaced atomically, and an interrupted retraining can be started
    again at any time.

    Args:
        model: the model in place.
        photos: labelled photos, a folder or a CSV; the corrections join their training photos.
        settings: None: the defaults.
        reload: called once the file is replaced, with its SHA-256; makes a service load it. If it
            raises ModelFileError, the former model is put back.
        progress: receives the stages of `train` and `compare`, and notes.
        options: fields of RetrainSettings, in place of those in `settings`.

    Raises:
        SettingsError: invalid options, or a model whose settings of training are not known.
        ModelFileError: the model in place cannot be used.
        DatasetError: the photos cannot be used, or none can be compared.
        StorageError: another retraining of this model is running, or a file cannot be written.
        RunError: the new model is in place, but the service did not reload; or the service refused
            it, and the former model is back in place.
    """
    place = Path(model)
    settings = merge(RetrainSettings, settings, options, "retrain")
    folder = history_folder(place)
    with Problems() as problems:
        problems.outputs(
            {"folder of models": folder / CANDIDATE},
            inputs={"dataset": photos},
            photos=listed_photos(photos, settings.data),
            make_folders=True,
        )
    busy = f"another retraining of {place} is running; wait until it has ended"
    with exclusive(folder / "lock", busy):
        return _retrain(place, photos, settings, reload, progress or NoProgress())


def history_folder(model: Path) -> Path:
    """Return the folder of a model's former files: `shop.models` beside `shop.onnx`."""
    return model.with_name(f"{model.stem}.models")


def kept_models(folder: Path) -> list[Path]:
    """Return the replaced models in a folder, newest first."""
    names = [path for path in folder.iterdir() if _KEPT.fullmatch(path.name)]
    return sorted(names, key=lambda path: path.name, reverse=True)


def _retrain(
    place: Path,
    photos: str | Path,
    settings: RetrainSettings,
    reload: Callable[[str], None] | None,
    progress: Progress,
) -> Retraining:
    former = Classifier(place)
    digest = sha256_file(place)
    folder = history_folder(place)
    candidate, splits = folder / CANDIDATE, folder / PHOTOS
    trained = train(
        photos,
        candidate,
        _training(former.info, place, settings),
        manifest=splits,
        report=folder / REPORT,
        progress=progress,
    )
    new = Classifier(candidate)
    if _taught(former.info) and not _taught(new.info):
        progress.note(
            f"{place} learned what to refuse from {_taught(former.info):,} photos of no class, and "
            "there are none now; name their folder: --none FOLDER"
        )
    if _same(former.info, new.info):
        _discard(folder)
        # A retraining that was killed after it replaced the file has not reloaded the service.
        reloaded = _reload(reload, digest)
        kept = tuple(kept_models(folder))
        reason = "the photos, their labels and the settings are those of the model in place"
        return Retraining(place, "unchanged", reason, None, kept, trained, None, reloaded)
    comparison = compare(former, new, splits, split="test", progress=progress)
    worse, reason = judge(comparison, settings.tolerance)
    decision: Decision = "worse" if worse else "replaced" if settings.replace else "kept-candidate"
    kept = tuple(kept_models(folder))
    result = Retraining(place, decision, reason, candidate, kept, trained, comparison)
    return result if decision != "replaced" else _put_in_place(result, digest, settings, reload)


def _put_in_place(
    result: Retraining,
    former: str,
    settings: RetrainSettings,
    reload: Callable[[str], None] | None,
) -> Retraining:
    """Replace the model with the SHA-256 `former` by the candidate and reload the service."""
    place, folder = result.model, history_folder(result.model)
    assert result.candidate is not None, "a candidate was trained"
    if sha256_file(place) != former:
        raise StorageError(
            f"{place} was replaced by another program during the training, so it was left as it "
            "is; start the retraining again to compare with the new file"
        )
    copy = keep_copy(place, former, settings.keep)
    put(result.candidate, place)
    try:
        reloaded = _reload(reload, sha256_file(place))
    except ModelFileError as error:
        put(copy, place)
        raise RunError(f"{error}; the former model is back in place at {place}") from error
    finally:
        if sha256_file(place) != former:
            report = folder / REPORT
            if report.exists():
                report.replace(place.with_name(f"{place.stem}.report.html"))
            _discard(folder)
    kept = tuple(kept_models(folder))
    return replace(result, candidate=None, kept=kept, reloaded=reloaded)


def _reload(reload: Callable[[str], None] | None, sha256: str) -> bool:
    """Make the service, if there is one, load the file with this SHA-256."""
    if reload is not None:
        reload(sha256)
    return reload is not None


def _training(info: ModelInfo, place: Path, settings: RetrainSettings) -> TrainSettings:
    """Return the settings of the training. Raises SettingsError where they are not known."""
    training = settings.training or _settings_of(info, place, settings.backbone)
    if settings.training is not None and settings.backbone is not None:
        training = replace(training, backbone=settings.backbone)
    if training.seed != info.seed:
        raise SettingsError(
            f"the seed is {training.seed}, but {place} was trained with the seed {info.seed}; "
            "another seed makes other splits, so that one of the models was trained on photos that "
            "test the other"
        )
    corrections = settings.corrections
    if corrections is None:
        beside = place.with_suffix(".db")
        corrections = beside if beside.exists() else None
    elif str(corrections).strip().lower() in ("off", "none", "no", ""):
        corrections = None
    return replace(
        training,
        corrections=corrections,
        corrections_photos=settings.corrections_photos,
        none=settings.none or training.none,
        data=settings.data or training.data,
    )


def _settings_of(info: ModelInfo, place: Path, backbone: str | Path | None) -> TrainSettings:
    """Return the settings with which a model with a frozen backbone was trained."""
    known = info.settings
    if backbone is None and ("finetune" in known or "views_made" not in known):
        how = "fine-tuned" if "finetune" in known else "not made by `tailorbird train`"
        raise SettingsError(
            f"{place} was {how}, so its training cannot be repeated on frozen features; name a "
            "backbone to train a head on instead (--backbone), or give the settings of the "
            "training in Python: retrain(..., training=TrainSettings(...))"
        )
    return TrainSettings(
        backbone=backbone if backbone is not None else _backbone_of(info.backbone),
        views=int(known.get("views_made", 1)),
        mirror=bool(known.get("mirror", False)),
        refit=bool(known.get("refit", False)),
        precision=float(known.get("precision", 0.95)),
        refuse=float(known.get("refuse", REFUSE)),
        seed=info.seed,
    )


def _taught(info: ModelInfo) -> int:
    """Return the number of photos of no class from which a model learned what to refuse."""
    photos = info.unfamiliarity.get("none_of_these")
    return photos if type(photos) is int else 0


def _backbone_of(about: Mapping[str, Any]) -> str:
    """Return the name of a model's backbone, or the names of several, as `train` takes them."""
    parts = about.get("parts")
    if parts:
        return ",".join(str(part["name"]) for part in parts)
    return str(about.get("name")).removesuffix(" + mirror")


def _same(former: ModelInfo, new: ModelInfo) -> bool:
    """Whether two models were trained on the same photos, labels and splits in the same way."""

    def made_from(info: ModelInfo) -> tuple[object, ...]:
        backbone = info.backbone.get("sha256"), info.backbone.get("name")
        # The fingerprint is that of the photos of the classes; others teach what to refuse.
        photos = info.data.get("fingerprint"), info.data.get("trained_on")
        return *photos, info.settings, info.seed, backbone, info.versions, info.classes

    return made_from(former) == made_from(new)


def judge(comparison: Comparison, tolerance: float) -> tuple[bool, str]:
    """Return whether the new model B is worse than A, and the reason as a sentence.

    It is worse if it lacks a class of A, if McNemar's test shows it, or if it loses more accuracy
    than `tolerance` (0 to 1), which in a small test set no test could show.
    """
    lost = comparison.only_classes[0]
    if lost:
        names = ", ".join(lost[:10])
        return True, (
            f"the new model lacks {len(lost):,} class{'es' * (len(lost) > 1)} of the model in "
            f"place ({names}); if that is intended, put it in place by hand"
        )
    tally = comparison.tally
    result = (
        f"on {tally.n:,} test photo{'s' * (tally.n != 1)} that neither has seen, the new model is "
        f"right on {tally.both + tally.only_b:,} and the model in place on "
        f"{tally.both + tally.only_a:,} (only the new one {tally.only_b:,}, only the other "
        f"{tally.only_a:,}; p = {comparison.p_value:.2g})"
    )
    if comparison.better == "a":
        return True, f"{result}: it is significantly worse"
    if comparison.difference < -tolerance - 1e-9:
        return True, (
            f"{result}: it loses {-100 * comparison.difference:.1f} points, "
            f"{100 * tolerance:g} may be lost"
        )
    if comparison.better == "b":
        return False, f"{result}: it is significantly better"
    limit = ", as far as so few photos can tell" if comparison.b.too_few else ""
    return False, f"{result}: it is not worse{limit}"


def keep_copy(place: Path, digest: str, keep: int) -> Path:
    """Copy the model in place to the folder of former models, and delete all but `keep` of them.

    A copy that is there already, of a retraining that was killed after this step, is used.
    """
    folder = history_folder(place)
    there = [path for path in kept_models(folder) if path.name.endswith(f"-{digest[:12]}.onnx")]
    moment = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    copy = there[0] if there else folder / f"{moment}-{digest[:12]}.onnx"
    try:
        if not there:
            write_bytes(copy, place.read_bytes())
        for old in [path for path in kept_models(folder) if path != copy][keep - 1 :]:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(copy, error) from error
    return copy


def put(source: Path, place: Path) -> None:
    """Replace the model file at `place` by a copy of `source`, atomically, with its permissions."""
    with atomic_path(place) as temporary:
        shutil.copyfile(source, temporary)
        if place.exists():
            shutil.copymode(place, temporary)


def _discard(folder: Path) -> None:
    """Delete the candidate and what belongs to it."""
    for name in (CANDIDATE, PHOTOS, REPORT):
        (folder / name).unlink(missing_ok=True)
