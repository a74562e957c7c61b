"""`tailorbird train`: train a classifier on photos and write one tested model file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from tailorbird.cli import output, parsing, results
from tailorbird.cli.options import (
    CLUSTER,
    DEFAULT_BACKBONE,
    FINETUNING,
    HEAD,
    REPORT,
    BackboneOption,
    FormatOption,
    JsonOption,
    MirrorOption,
    NoReportOption,
    PhotosArgument,
    RayOption,
    ReportOption,
    on_device,
    reads_photos,
)

_INNER = "Inner layers: 0 for none, 100 for one, 100x50 for two"
_SEARCHED = "by default it is searched"


def _head(*names: str, text: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=HEAD)


def _tuning(*names: str, text: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=FINETUNING)


_Model = Annotated[Path, typer.Option("--output", "-o", help="Model file to write, .onnx.")]
_Views = Annotated[
    int,
    typer.Option(help="Views of each training photo, 1 to 32; all but the first are augmented."),
]
_Inner = Annotated[str | None, _head(text=f"{_INNER}; {_SEARCHED}.")]
_Dropout = Annotated[float | None, _head(text=f"Dropout, 0 to below 1; {_SEARCHED}.")]
_LearningRate = Annotated[float | None, _head(text=f"Learning rate of Adam; {_SEARCHED}.")]
_L2 = Annotated[float | None, _head(text=f"Strength of the L2 penalty; {_SEARCHED}.")]
_Epochs = Annotated[
    int | None, _head(text="Maximum number of epochs; early stopping may end before.")
]
_BatchSize = Annotated[int | None, _head(text="Batch size.")]
_Patience = Annotated[int | None, _head(text="Epochs without improvement before stopping early.")]
_BatchNorm = Annotated[
    bool | None,
    _head("--batch-norm/--no-batch-norm", text="Batch normalisation in inner layers."),
]
_LabelSmoothing = Annotated[float | None, _head(text="Label smoothing, 0 to below 1.")]
_ClassWeight = Annotated[str | None, _head(text="balanced: give rare classes more weight.")]
_Schedule = Annotated[str | None, _head(text="Learning-rate schedule: cosine or constant.")]
_Refit = Annotated[
    bool,
    _head("--refit", text="At the end, train the chosen head on train and validation."),
]
_Precision = Annotated[
    float, typer.Option(help="Target precision above the confidence threshold, 0.5 to 1.")
]
_Refuse = Annotated[
    float,
    typer.Option(
        help="Share of photos of the classes that may be refused as none of them, 0 to 0.5; 0: "
        "never say so."
    ),
]
_None = Annotated[
    Path | None,
    typer.Option(
        "--none",
        help="Folder of photos that are none of the classes, which teaches what to refuse; a "
        "folder `none of these` beside the class folders does the same.",
    ),
]
_Seed = Annotated[int, typer.Option(help="Seed of the split, the search and the fits.")]
_Manifest = Annotated[
    Path | None, typer.Option(help="Write the split to a CSV, to train on it again.")
]
_Corrections = Annotated[
    str | None,
    typer.Option(help="Also train on people's corrections: an SQLite file or a postgresql:// URL."),
]
_CorrectionsPhotos = Annotated[
    Path | None,
    typer.Option(help="Folder of their photos; by default shop.photos for shop.db."),
]
_Finetune = Annotated[
    bool,
    _tuning(
        "--finetune",
        text="Also train the backbone: lite, timm:NAME, or one that was pulled as keras:NAME.",
    ),
]
_Engine = Annotated[
    str | None,
    _tuning(text="Framework that trains: timm or keras (needs the extra `torch` or `keras`)."),
]
_Size = Annotated[
    str | None,
    _tuning(
        text="Input sizes, one training stage per size, such as 150,299; by default a smaller "
        "one, then, with Keras, the backbone's."
    ),
]
_Unfreeze = Annotated[
    str | None,
    _tuning(
        text="Layers to train: gradual (top layers, then lower ones; the default), all, or a "
        "number of top layers."
    ),
]
_Budget = Annotated[str | None, _tuning(text="Maximum duration, such as 90s, 10m or 1.5h.")]
_Optimizer = Annotated[
    str | None, _tuning(text="Optimizer: adamw (the default), adam, sgd or rmsprop.")
]
_BaseRate = Annotated[
    float | None,
    _tuning(text="Learning rate of the backbone, as a fraction of the head's."),
]
_DepthDecay = Annotated[
    float | None,
    _tuning(text="Learning rate of the lowest trained layer, as a fraction of the top's."),
]
_WeightDecay = Annotated[float | None, _tuning(text="Decoupled weight decay, as in AdamW.")]
_Ema = Annotated[float | None, _tuning(text="EMA decay per 10 steps; 0 disables.")]
_Augment = Annotated[
    str | None,
    _tuning(text="Changes to the augmentation, such as zoom=0.2,flip=no,erase=0.25; or none."),
]
_Mixup = Annotated[
    float | None,
    _tuning(
        text="Mix photos in pairs, with shares from Beta(A, A). PyTorch: 0.2 as soon as training "
        "photos are learned by heart."
    ),
]
_Cutmix = Annotated[
    float | None,
    _tuning(
        text="Replace rectangles of photos by other photos, of areas from Beta(A, A). PyTorch: 1 "
        "as soon as training photos are learned by heart."
    ),
]
_Accumulate = Annotated[
    int | None, _tuning(text="Parts of each batch, one after the other, to save memory.")
]
_Clip = Annotated[float | None, _tuning(text="Maximum global norm of the gradients.")]
_NoAugment = Annotated[bool, _tuning("--no-augment", text="Train without augmentation.")]
_MixedPrecision = Annotated[
    bool | None,
    _tuning(
        "--mixed-precision/--no-mixed-precision",
        text="Use 16-bit arithmetic; by default where the device is made for it.",
    ),
]
_Devices = Annotated[
    int | None, _tuning(text="Number of GPUs of this machine that share each step.")
]
_Workers = Annotated[
    int | None,
    typer.Option(
        help="Number of workers of the cluster; by default one for each core or GPU that embeds, "
        "and one for each GPU, else each machine, that fine-tunes.",
        rich_help_panel=CLUSTER,
    ),
]
_Int8 = Annotated[
    bool,
    typer.Option(
        "--int8",
        help="Also write the model as NAME.int8.onnx, if that loses at most half a point of "
        "accuracy.",
    ),
]
_Suspects = Annotated[
    bool,
    typer.Option(
        "--suspects",
        help="Also look for labels that are probably wrong, and show them in the report.",
        rich_help_panel=REPORT,
    ),
]


@on_device
@reads_photos
def train(
    data: Any,
    photos: PhotosArgument,
    model: _Model = Path("model.onnx"),
    backbone: BackboneOption = DEFAULT_BACKBONE,
    mirror: MirrorOption = False,
    views: _Views = 1,
    inner: _Inner = None,
    dropout: _Dropout = None,
    learning_rate: _LearningRate = None,
    l2: _L2 = None,
    epochs: _Epochs = None,
    batch_size: _BatchSize = None,
    patience: _Patience = None,
    batch_norm: _BatchNorm = None,
    label_smoothing: _LabelSmoothing = None,
    class_weight: _ClassWeight = None,
    schedule: _Schedule = None,
    refit: _Refit = False,
    precision: _Precision = 0.95,
    refuse: _Refuse = 0.02,
    none: _None = None,
    seed: _Seed = 0,
    manifest: _Manifest = None,
    corrections: _Corrections = None,
    corrections_photos: _CorrectionsPhotos = None,
    finetune: _Finetune = False,
    engine: _Engine = None,
    size: _Size = None,
    unfreeze: _Unfreeze = None,
    budget: _Budget = None,
    optimizer: _Optimizer = None,
    base_rate: _BaseRate = None,
    depth_decay: _DepthDecay = None,
    weight_decay: _WeightDecay = None,
    ema: _Ema = None,
    augment: _Augment = None,
    no_augment: _NoAugment = False,
    mixup: _Mixup = None,
    cutmix: _Cutmix = None,
    accumulate: _Accumulate = None,
    clip: _Clip = None,
    mixed_precision: _MixedPrecision = None,
    devices: _Devices = None,
    ray: RayOption = None,
    workers: _Workers = None,
    suspects: _Suspects = False,
    int8: _Int8 = False,
    report: ReportOption = None,
    no_report: NoReportOption = False,
    report_format: FormatOption = "html",
    json: JsonOption = False,
) -> None:
    """Train a classifier and write one tested model file.

    Scans and splits the photos, embeds them with a pretrained backbone, searches the best head,
    calibrates, tests once, and writes a model file and a report, which contains photos.
    """
    from tailorbird import training
    from tailorbird.int8 import train_int8

    options = {
        "backbone": backbone,
        "mirror": mirror,
        "views": views,
        "inner": parsing.inner_layers(inner),
        "dropout": dropout,
        "learning_rate": learning_rate,
        "l2": l2,
        "epochs": epochs,
        "batch_size": batch_size,
        "patience": patience,
        "batch_norm": batch_norm,
        "label_smoothing": label_smoothing,
        "class_weight": class_weight,
        "schedule": schedule,
        "refit": refit,
        "precision": precision,
        "refuse": refuse,
        "none": none,
        "seed": seed,
        "data": data,
        "manifest": manifest,
        "corrections": corrections,
        "corrections_photos": corrections_photos,
        "judge_labels": suspects,
        "report": output.requested_report(report, no_report),
        "report_format": report_format,
        "engine": engine,
        "sizes": parsing.sizes(size),
        "unfreeze": parsing.unfreeze(unfreeze),
        "budget": parsing.seconds(budget),
        "optimizer": optimizer,
        "base_rate": base_rate,
        "depth_decay": depth_decay,
        "weight_decay": weight_decay,
        "ema": ema,
        "mixup": mixup,
        "cutmix": cutmix,
        "accumulate": accumulate,
        "clip": clip,
        "mixed_precision": mixed_precision,
        "devices": devices,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if no_augment or augment is not None:
        given["augmentation"] = None if no_augment else parsing.augmentation(augment or "")
    settings = training.settings_from_options(finetune=finetune, **given)
    run: Any = train_int8 if int8 else training.train
    if ray is not None or workers is not None:
        from tailorbird.cluster.running import RaySettings
        from tailorbird.cluster.training import train as train_on_cluster

        run = partial(train_on_cluster, where=RaySettings(ray, workers), run=run)
    with output.ProgressBar() as progress:
        found = run(photos, model, settings, progress=progress)
    result = found.trained if int8 else found
    show = results.print_quantised_training if int8 else results.print_result
    output.print_json_or_text(found, show, json=json)
    output.print_report_path(None if json else result.report, result.report_error)
