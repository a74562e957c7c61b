"""Settings of `train`: defaults, valid values, and how flat options become settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from tailorbird.backbone.catalogue import DEFAULT, files_read, names_in
from tailorbird.corrections.database import locate
from tailorbird.dataset import DataSettings, listed_photos
from tailorbird.engines.finetune.settings import FROM_SCRATCH, FinetuneSettings
from tailorbird.engines.protocol import Regularisation
from tailorbird.engines.registry import SCRATCH, engine_for_reference
from tailorbird.head import HeadSettings
from tailorbird.inference import chosen
from tailorbird.model.fitting import REFUSE
from tailorbird.preparation import MOST_VIEWS
from tailorbird.report import FORMATS, Format, report_path
from tailorbird.validation import Problems, build, merge

_HEAD: Final = frozenset(f.name for f in fields(HeadSettings)) - {"views"}
_REGULARISATION: Final = frozenset(f.name for f in fields(Regularisation))
_TUNING: Final = (
    {f.name for f in fields(FinetuneSettings)} | _REGULARISATION
) - _HEAD - {"views", "regularisation"}  # fmt: skip
"""Options that only fine-tuning uses."""


@dataclass(frozen=True)
class TrainSettings:
    """All settings of a training, apart from the photos and the model file.

    Attributes:
        backbone: name of an installed backbone, path of an .onnx file, a reference such as
            `timm:convnext_atto`, or `cnn`: a small network that trains from random weights.
            Several, separated by commas, put their features side by side in one model file.
        views: views of each training photo, 1 to 32; the first is the photo itself, the others are
            augmented.
        fixed: fields of HeadSettings that are not searched, such as {"inner": (100,)}.
        refit: once everything is chosen and calibrated, train the final head on train and
            validation together; the validation scores are of the head before that.
        precision: target precision on validation above the confidence threshold, 0.5 to 1.
        refuse: share of photos of the classes that may be refused as none of them, 0 to 0.5; 0:
            the model tells no unfamiliar photos.
        none: folder of photos that are of no class, which teach what to refuse, beside those of
            the folder `none of these` among the class folders.
        seed: of the split, the search and the fits, 0 to 2**32 - 1.
        data: how the folder or CSV is read: names of splits, near-duplicates, groups, links.
        manifest: file to write the split to, as a CSV that can be trained on again.
        corrections: database of corrections; its kept photos join the training photos.
        corrections_photos: folder of these photos; by default the one beside an SQLite file,
            `shop.photos` for `shop.db`.
        report: True: beside the model (shop.report.html for shop.onnx); False: none; or the file
            to write. A report that cannot be written does not fail the training.
        report_format: html (a self-contained page), markdown (a model card) or json (the numbers).
        judge_labels: also search for photos whose label is probably wrong, and show them in the
            report; the model is the same.
        engine: framework that fine-tunes; None: the one that exported the backbone.
        finetune: after the head is found on cached features, train the backbone too with these
            settings; None: leave it frozen. With `cnn` they are the settings of the whole training.
        mirror: average the features of each photo with those of the mirrored photo, in the model
            file too, so that each prediction runs the backbone twice. A network that trains does
            so only if that lowers the validation log-loss.
        device: where features are computed: auto, cpu, cuda, cuda:1 and so on; None: as asked for
            by `tailorbird.use_device`, else by TAILORBIRD_DEVICE, else auto. An engine that
            fine-tunes chooses its own device.
        half: compute features in float16, on a device that can.
    """

    backbone: str | Path = DEFAULT
    views: int = 1
    fixed: Mapping[str, Any] = field(default_factory=dict)
    refit: bool = False
    precision: float = 0.95
    refuse: float = REFUSE
    none: str | Path | None = None
    seed: int = 0
    data: DataSettings = field(default_factory=DataSettings)
    manifest: str | Path | None = None
    corrections: str | Path | None = None
    corrections_photos: str | Path | None = None
    report: str | Path | bool = True
    report_format: Format = "html"
    judge_labels: bool = False
    engine: str | None = None
    finetune: FinetuneSettings | None = None
    mirror: bool = False
    device: str | None = None
    half: bool = False

    def __post_init__(self) -> None:
        """Raise one SettingsError that names every problem."""
        with Problems() as problems:
            problems.whole("views", self.views, 1, MOST_VIEWS)
            problems.number("precision", self.precision, 0.5, 1)
            problems.number("refuse", self.refuse, 0, 0.5)
            problems.need(
                self.none is None or self.refuse != 0,
                "none (--none) teaches what to refuse, but refuse is 0 (--refuse), which refuses "
                "nothing; leave one of them out",
            )
            problems.seed(self.seed)
            problems.attempt(partial(chosen, self.device, half=self.half))
            problems.attempt(partial(build, HeadSettings, self.fixed or {}, "fixed"))
            problems.choice("report_format", self.report_format, FORMATS)
            problems.need(
                self.corrections_photos is None or self.corrections is not None,
                "corrections_photos is given without corrections (--corrections); name the "
                "database too",
            )
            problems.need(
                self.engine is None or self.trains_network,
                f"engine is {self.engine!r}, but only fine-tuning uses an engine; ask for "
                "fine-tuning too (--finetune)",
            )
            problems.need(
                not (self.refit and self.trains_network),
                "refit trains the head on frozen features only; leave it out where the network "
                "itself trains",
            )
            self._check_several(problems)
            if self.from_scratch:
                self._check_from_scratch(problems)

    def _check_several(self, problems: Problems) -> None:
        names = names_in(self.backbone)
        if len(names) == 1:
            return
        problems.need(
            SCRATCH not in names,
            f"backbone is {str(self.backbone)!r}, but {SCRATCH} trains from random weights and "
            "gives no features to put beside those of others; give it alone or leave it out",
        )
        problems.need(
            self.finetune is None,
            f"backbone is {str(self.backbone)!r}, but only one backbone can be fine-tuned; give "
            "one, or leave fine-tuning out (--finetune)",
        )

    def _check_from_scratch(self, problems: Problems) -> None:
        sizes = self.finetune.sizes if self.finetune else None
        problems.need(
            sizes is None or len(sizes) == 1,
            f"sizes are {sizes}; {SCRATCH} has a dense layer over positions and trains at one "
            "size: give one, such as 150",
        )
        problems.need(
            self.finetune is None or isinstance(self.finetune.unfreeze, str),
            f"unfreeze would change nothing: all layers of {SCRATCH} train; leave it out",
        )
        problems.need(
            not self.judge_labels,
            "labels are judged by a pretrained backbone's features; leave that out (--suspects) or "
            "give a backbone",
        )
        problems.need(
            not isinstance(self.fixed, Mapping) or "inner" not in self.fixed,
            f"inner would change nothing: the layers of {SCRATCH} are given; leave it out",
        )
        problems.need(
            self.views == 1,
            f"views are for cached features; {SCRATCH} trains on a new view of each photo in "
            "every epoch",
        )

    @property
    def from_scratch(self) -> bool:
        """Return whether a network trains from random weights."""
        return str(self.backbone) == SCRATCH

    @property
    def trains_network(self) -> bool:
        """Return whether more than the head trains."""
        return self.from_scratch or self.finetune is not None


def settings_from_options(*, finetune: bool = False, **options: Any) -> TrainSettings:
    """Return the settings for flat options; options that are not given keep their defaults.

    Besides those of TrainSettings, options are the fields of HeadSettings and FinetuneSettings.
    Those of both, such as learning_rate, apply to fine-tuning where the network trains, except
    `inner`, which the search of the head uses; `views` then are fine-tuning's too.

    Raises SettingsError: options outside their range, or that would have no effect.
    """
    scratch = str(options.get("backbone")) == SCRATCH
    head = {name: options.pop(name) for name in list(options) if name in _HEAD}
    tuning = {name: options.pop(name) for name in list(options) if name in _TUNING}
    with Problems() as problems:
        if tuning and not (finetune or scratch):
            given = ", ".join(f"--{_option(name)}" for name in tuning)
            what = "them" if len(tuning) > 1 else "it"
            problems.add(f"{given}: only fine-tuning uses {what}; add --finetune")
        problems.need(
            not (scratch and "unfreeze" in tuning),
            f"--unfreeze would change nothing: all layers of {SCRATCH} train; leave it out",
        )
        if finetune or scratch:
            tuning |= {name: head.pop(name) for name in list(head) if name != "inner"}
            if options.get("views", 1) > 1 and not scratch:
                tuning["views"] = options.pop("views")
            options["finetune"] = problems.attempt(partial(_finetune_settings, tuning, scratch))
        settings = problems.attempt(
            partial(build, TrainSettings, {**options, "fixed": head}, "train")
        )
    assert settings is not None, "a SettingsError was raised otherwise"
    return settings


def _option(name: str) -> str:
    """Return the name of a fine-tuning option of the command line."""
    return {"sizes": "size", "augmentation": "augment"}.get(name, name).replace("_", "-")


def _finetune_settings(options: Mapping[str, Any], scratch: bool) -> FinetuneSettings:
    """Return FinetuneSettings; options that are not given keep the defaults of the task."""
    base = FROM_SCRATCH if scratch else FinetuneSettings()
    own = {name: value for name, value in options.items() if name not in _REGULARISATION}
    acting = {name: value for name, value in options.items() if name in _REGULARISATION}
    return replace(base, **own, regularisation=replace(base.regularisation, **acting))


def settings_for(
    photos: str | Path, output: Path, settings: TrainSettings | None, options: Mapping[str, Any]
) -> TrainSettings:
    """Return `settings`, or the defaults, changed by `options`, and check the files to be written.

    Raises one SettingsError that names every problem.
    """
    base = settings or TrainSettings()
    values = {**{f.name: getattr(base, f.name) for f in fields(TrainSettings)}, **options}
    with Problems() as problems:
        result = problems.attempt(partial(merge, TrainSettings, base, options, "train"))
        problems.attempt(partial(_check_files, photos, output, values))
    assert result is not None, "a SettingsError was raised otherwise"
    return result


def _check_files(photos: str | Path, output: Path, values: Mapping[str, Any]) -> None:
    """Raise one SettingsError unless every output can be written and is not an input."""
    report = report_path(output, values["report"], values["report_format"])
    backbone, corrections = values["backbone"], values["corrections"]
    no_file = str(backbone) == SCRATCH or engine_for_reference(str(backbone)) is not None
    inputs = {
        "dataset": photos,
        **({} if no_file else files_read(backbone)),
        "corrections": locate(str(corrections)).path if corrections else None,
        "folder of kept photos": values["corrections_photos"],
        "folder of no class": values["none"],
    }
    with Problems() as problems:
        problems.ending("model file", output, ".onnx")
        problems.ending("manifest", values["manifest"], ".csv")
        if report is not None and report.suffix.lower() in (".onnx", ".csv"):
            problems.add(f"the report is {str(report)!r}; give a name such as shop.report.html")
        problems.outputs(
            {"model": output, "manifest": values["manifest"], "report": report},
            inputs=inputs,
            photos=listed_photos(photos, values["data"]),
            make_folders=True,
        )
