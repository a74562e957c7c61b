"""The report as a model card in Markdown, with the metadata block that model hubs read."""

from __future__ import annotations

import json
import re
from typing import Any

from tailorbird.dataset import printable
from tailorbird.metrics.scores import MEASURES

_LONG = ("blend", "finetune", "head")
"""Settings that are lists or objects; they are shown elsewhere or in the JSON report."""
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~$&^:@])")


def plain(text: object) -> str:
    """Return an untrusted name escaped for Markdown."""
    return _SPECIAL.sub(r"\\\1", printable(str(text)))


def card(numbers: dict[str, Any]) -> str:
    """Return the model card: purpose, scores, limits, data, training, backbone, licence."""
    info = numbers["info"]
    parts = [
        _front(numbers),
        f"# {plain(numbers['model'])}\n\n{_purpose(info)}",
        _scores(numbers),
        _limits(numbers),
    ]
    parts += [_data(numbers), _training(numbers), _usage(numbers)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(numbers: dict[str, Any]) -> str:
    """Return the YAML block; its strings are JSON strings, which are valid YAML."""
    backbone = numbers["info"]["backbone"]
    lines = [
        "---",
        "pipeline_tag: image-classification",
        "library_name: tailorbird",
        "tags: [onnx, transfer-learning]",
    ]
    if backbone.get("licence"):
        lines.append(f"license: {json.dumps(printable(str(backbone['licence']).lower()))}")
    main = numbers["scores"].get(numbers["headline"])
    if main:
        headline = json.dumps(printable(numbers["headline"]))
        lines += [
            "model-index:",
            f"- name: {json.dumps(printable(numbers['model']))}",
            "  results:",
            "  - task: {type: image-classification}",
            f"    dataset: {{name: {headline}, type: image-folder}}",
            "    metrics:",
            f"    - {{type: accuracy, value: {main['accuracy']!r}}}",
        ]
        if "f1" in main["macro"]:
            lines.append(f"    - {{type: f1, name: macro F1, value: {main['macro']['f1']!r}}}")
    return "\n".join([*lines, "---"])


def _purpose(info: dict[str, Any]) -> str:
    classes = ", ".join(map(plain, info["classes"]))
    settings = info["settings"]
    out = (
        "probabilities (not calibrated)"
        if settings.get("calibrated") is False
        else "calibrated probabilities"
    )
    if not settings.get("no_heatmaps"):
        out += " and Grad-CAM heat maps"
    return (
        f"Classifies photos into {len(info['classes'])} classes: {classes}. Below the confidence "
        f"threshold {info['threshold']:.2f} it reports that it is unsure. "
        f"One ONNX file: RGB pixels in, {out} out."
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [
        f"| {' | '.join(head)} |",
        f"| {' | '.join('---' if i == 0 else '---:' for i in range(len(head)))} |",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _scores(numbers: dict[str, Any]) -> str:
    main = numbers["scores"].get(numbers["headline"])
    if not main:
        return "" if numbers["info"]["scores"] else "## Scores\n\nNot scored."
    low, high = main["interval"]
    rows = [["accuracy", f"{main['accuracy']:.1%} (95% interval {low:.1%} to {high:.1%})"]]
    if main["too_few"]:
        few = f"{main['n']:,} photos are too few to say more than the interval"
        rows[0] = ["accuracy", f"{low:.1%} to {high:.1%} (95% interval; {few})"]
    shares = (
        ("always the most frequent class", main["majority_baseline"]),
        ("photos it answers, instead of 'not sure'", main["coverage"]),
        ("answers that are right", main["sure_accuracy"]),
        ("photos it takes for none of its classes", main["refused"]),
    )
    rows += [[title, f"{value:.1%}"] for title, value in shares if value is not None]
    rows += [["macro F1", f"{value:.3f}"] for name, value in main["macro"].items() if name == "f1"]
    rows += [
        [one.title, one.text(main[name])]
        for name, one in MEASURES.items()
        if main[name] is not None
    ]
    classes = [
        [
            plain(row["label"]),
            f"{row['precision']:.3f}",
            f"{row['recall']:.3f}",
            f"{row['f1']:.3f}",
            str(row["support"]),
        ]
        for row in main["per_class"]
    ]
    title = f"## Scores: {plain(numbers['headline'])}, {main['n']:,} photos"
    each = _table(["class", "precision", "recall", "F1", "photos"], classes)
    return f"{title}\n\n{_table(['score', 'value'], rows)}\n\n{each}"


def _limits(numbers: dict[str, Any]) -> str:
    text = "## Limits\n\n" + "\n".join(f"- {plain(limit)}" for limit in numbers["limits"])
    steps = [f"- {plain(step['text'])}: {plain(step['command'])}" for step in numbers["advice"]]
    return text + ("\n\n## What to do next\n\n" + "\n".join(steps) if steps else "")


def _data(numbers: dict[str, Any]) -> str:
    data = numbers["info"]["data"]
    splits = data.get("splits")
    parts = [f"## Data\n\nFingerprint: `{plain(data.get('fingerprint', 'unknown'))}`"]
    if isinstance(splits, dict) and all(isinstance(counts, dict) for counts in splits.values()):
        names = list(splits)
        labels = sorted({label for counts in splits.values() for label in counts})
        rows = [
            [plain(label), *(plain(splits[name].get(label, 0)) for name in names)]
            for label in labels
        ]
        parts.append(_table(["class", *map(plain, names)], rows))
    if numbers["data"]:
        findings = [f"{one['count']} {one['kind']}" for one in numbers["data"]["findings"]]
        parts.append("Findings of the scan: " + (", ".join(findings) or "none") + ".")
    if numbers["left_out"]:
        parts.append(
            "\n".join(
                f"- left out: {one['count']}: {plain(one['reason'])}" for one in numbers["left_out"]
            )
        )
    return "\n\n".join(parts)


def _training(numbers: dict[str, Any]) -> str:
    info = numbers["info"]
    backbone = info["backbone"]
    lines = [
        f"- {name}: {plain(backbone[key])}"
        for name, key in (
            ("backbone", "name"),
            ("its licence", "licence"),
            ("its source", "source"),
            ("trained on", "trained_on"),
        )
        if backbone.get(key)
    ]
    settings = ", ".join(
        f"{plain(name)} {plain(value)}"
        for name, value in info["settings"].items()
        if name not in _LONG
    )
    lines += [
        f"- {'import' if 'imported' in info['settings'] else 'head'}: {settings}",
        f"- seed: {info['seed']}",
        f"- made: {plain(info['created'])}",
    ]
    if numbers["tuning"]:
        lines += [f"- {plain(sentence)}" for sentence in _tuned(numbers["tuning"])]
    lines.append(
        "- versions: "
        + ", ".join(f"{plain(name)} {plain(value)}" for name, value in info["versions"].items())
    )
    return "## Training\n\n" + "\n".join(lines)


def _tuned(tuning: dict[str, Any]) -> list[str]:
    start, best = tuning["start"], tuning["best"]["score"]
    gained = (
        f"validation log-loss {start['log_loss']:.3f} before, {best['log_loss']:.3f} after; "
        f"accuracy {start['accuracy']:.1%} before, {best['accuracy']:.1%} after"
    )
    what = "trained from scratch" if tuning["from_scratch"] else "fine-tuned"
    return [
        f"{what}: {gained}",
        *(f"stage {i}: {sentence}" for i, sentence in enumerate(tuning["stages"], start=1)),
    ]


def _usage(numbers: dict[str, Any]) -> str:
    name = printable(numbers["model"]).replace('"', "'").replace("`", "'")
    code = f'import tailorbird\n\ntailorbird.load("{name}").predict("photo.jpg")'
    return f"## Use\n\n```python\n{code}\n```"
