"""Write the results of both sides as JSON and Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steps import COURSE, PITFALLS, STEPS

Found = dict[str, dict[str, Any]]
SIDES = ("notebook", "tailorbird")


def read(out: Path) -> dict[str, Found]:
    """Return the results so far by step and side (`notebook`, `tailorbird`)."""
    found: dict[str, Found] = {}
    for step in STEPS:
        for side in SIDES:
            file = out / "results" / f"{step}.{side}.json"
            if file.exists():
                found.setdefault(step, {})[side] = json.loads(file.read_text())
    return found


def write(out: Path, *, machine: str) -> str:
    """Write results.json and RESULTS.md to the run's folder; return the Markdown."""
    plan, found = json.loads((out / "plan.json").read_text()), read(out)
    text = markdown(plan, found, machine)
    keep = {
        "network": plan["network"],
        "sizes": plan["sizes"],
        "epochs": plan["epochs"],
        "machine": machine,
        "steps": found,
    }
    (out / "results.json").write_text(json.dumps(keep, indent=1))
    (out / "RESULTS.md").write_text(text, encoding="utf-8")
    return text


def markdown(plan: dict[str, Any], found: dict[str, Found], machine: str) -> str:
    """Return the table of steps, the pitfalls, the settings tried, and the commands."""
    small, large = plan["sizes"]
    drawn = (
        " Drawn photos and random weights: only the machinery is shown, no accuracy means "
        "anything, and tailorbird's commands ran in one process."
        if plan["short"]
        else ""
    )
    parts = [
        f"{plan['network']}, {small} px, then {large} px. {machine}.{drawn}",
        course(plan, found),
        "Seconds: the notebook's without importing Keras, tailorbird's whole processes. \"All "
        "epochs\": what the notebook's step would take with as "
        "many epochs as the course gives it, from the seconds measured here; accuracies after "
        "fewer epochs are lower than the course's. "
        "Sweeps: the notebook's best on the validation split, tailorbird's mean over five folds "
        "of train and validation.",
        "## Pitfalls, measured",
        *[PITFALL[step](found) for step in PITFALLS if complete(found, step)],
        "## What was tried",
        *tried(found),
        "## Commands",
        commands(plan, found),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def course(plan: dict[str, Any], found: dict[str, Found]) -> str:
    """Return the table of the course's steps."""
    lines = [
        "| step | notebook: fits x epochs (the course's) | s | all epochs, s | validation | test "
        "| tailorbird: s | validation | test | avoided |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name in COURSE:
        step, sides = STEPS[name], found.get(name, {})
        theirs, ours = sides.get("notebook", {}), sides.get("tailorbird", {})
        done = plan["epochs"].get(name, 0)
        rounds = f"{step.fits} x {done} ({step.epochs})" if step.fits else ""
        scaled = theirs["seconds"] * step.epochs / done if theirs and step.fits and done else None
        lines.append(
            f"| {step.title} | {rounds} | {number(theirs.get('seconds'), 1)} | "
            f"{number(scaled, 0)} | {number(theirs.get('validation'), 3)} | "
            f"{number(theirs.get('test'), 3)} | {number(ours.get('seconds'), 1)} | "
            f"{number(ours.get('validation'), 3)} | "
            f"{number(ours.get('test'), 3)} | {step.avoided} |"
        )
    both = [sides for name, sides in found.items() if name in COURSE and len(sides) == 2]
    theirs_s, ours_s = (
        sum(sides[side]["seconds"] for sides in both) for side in ("notebook", "tailorbird")
    )
    lines.append(f"| all of them | | {theirs_s:.1f} | | | | {ours_s:.1f} | | | |")
    return "\n".join(lines)


def complete(found: dict[str, Found], pitfall: str) -> bool:
    """Return whether all values of the sentence exist."""
    needed = (pitfall, "homework") if pitfall == "pitfall-resume" else (pitfall,)
    return all(set(found.get(step, {})) == set(SIDES) for step in needed)


def number(value: float | None, digits: int) -> str:
    """Return a number for the table, or an empty cell."""
    return "" if value is None else f"{value:,.{digits}f}"


def _validation(found: dict[str, Found]) -> str:
    theirs, ours = (found["pitfall-validation"][side] for side in SIDES)
    through = ", ".join(f"{value:.3f}" for value in theirs["augmented"])
    first, second = ours["validation"]
    return (
        "**Validation through the augmenting generator.** The notebook's best model scores "
        f"{theirs['plain']:.3f} on the validation photos "
        f"as they are, and {through} in three passes through the generator that augments: "
        "another figure each time, and the best "
        "epoch is chosen by it. tailorbird augments training photos only; its own model scores "
        f"{first:.3f} and {second:.3f} in two runs of `evaluate`."
    )


def _resume(found: dict[str, Found]) -> str:
    theirs, ours = (found["pitfall-resume"][side] for side in SIDES)
    whole, resumed = found["homework"]["tailorbird"], ours["resumed"]
    lost = (
        "the best is lost"
        if theirs["after"] < theirs["before"]
        else "overwritten, though by no worse one this time"
    )
    stage, epoch, step = ours["resumed_from"] or (1, 0, 0)
    same = all(whole[part] == resumed[part] for part in ("validation", "test"))
    return (
        f"**Best checkpoint lost after a restart.** The checkpoint scored {theirs['before']:.3f} "
        "on validation. Training resumes in a new "
        "process, with a `ModelCheckpoint` made anew, which remembers no best score: after its "
        "first epoch the file scores "
        f"{theirs['after']:.3f}: {lost}. tailorbird's homework, killed (`kill -9`) after "
        f"{ours['killed_after']:.1f} s and given the same "
        f"command again, resumes at stage {stage}, epoch {epoch}, step {step}, and reaches "
        f"{resumed['validation']:.3f} on validation and "
        f"{resumed['test']:.3f} on test, {'the same as' if same else 'not the same as'} without "
        f"the kill ({whole['validation']:.3f} and "
        f"{whole['test']:.3f})."
    )


def _preprocess(found: dict[str, Found]) -> str:
    theirs, ours = (found["pitfall-preprocess"][side] for side in SIDES)
    rows = ", ".join(f"{mode} {value:.3f}" for mode, value in theirs["with"].items())
    return (
        "**Pixels prepared another way.** One model on the validation photos: "
        f"{theirs['right']:.3f} with its own `preprocess_input`; with "
        f"others', and no error anywhere: {rows}. A tailorbird model takes pixels, so there is "
        "nothing to confuse; and told a wrong "
        f'`--preprocess`, `tailorbird import` says: "{ours["warning"] or "nothing"}"'
    )


def _batch_norm(found: dict[str, Found]) -> str:
    theirs = found["pitfall-batch-norm"]["notebook"]
    return (
        "**Batch normalisation that trains unnoticed.** The checkpoint scores "
        f"{theirs['in use']:.3f} on validation in use. Its base was "
        "called with `training=False`; unfrozen, the same photos and weights score "
        f"{theirs['in fit']:.3f} as `fit` runs them, before any "
        "step. (How far it falls depends on how well the statistics in the weights file fit the "
        "photos.) tailorbird keeps batch "
        "normalisation in inference mode."
    )


PITFALL = {
    "pitfall-validation": _validation,
    "pitfall-resume": _resume,
    "pitfall-preprocess": _preprocess,
    "pitfall-batch-norm": _batch_norm,
}


def tried(found: dict[str, Found]) -> list[str]:
    """Rates, sizes, dropouts with their scores; the photo's names; scores by class; plain and
    augmented.
    """
    parts = []
    for step in ("learning-rate", "inner", "dropout"):
        for side, answer in found.get(step, {}).items():
            rows = ", ".join(f"{name}: {value:.3f}" for name, value in answer["tried"].items())
            more = (
                f"; `find-lr` suggests {answer['suggestion']:.2g}" if "suggestion" in answer else ""
            )
            parts.append(f"- {STEPS[step].title}, {side}: {rows}{more}")
    for side, answer in found.get("imagenet", {}).items():
        parts.append(
            f"- A photo named, {side}: "
            + ", ".join(f"{name} {value:.4f}" for name, value in answer["top"][:5])
        )
    used = found.get("use", {}).get("tailorbird")
    if used:
        parts.append(
            "- The notebook's larger model, imported: agrees with Keras to "
            f"{used['agreement']:.1g} in a probability, test "
            f"{used['imported_test']:.3f}. Compared with `larger.onnx` (B): {used['verdict']}"
        )
    back = found.get("hand-back", {})
    if set(back) == set(SIDES):
        theirs, ours = (back[side] for side in SIDES)
        parts.append(
            f"- Back in Keras, the fine-tuned model differs by at most {ours['difference']:.1g} "
            "in a probability; photos read by `load_img`, "
            f"it says {ours['label']} {theirs['probabilities'][ours['label']]:.3f} of the photo, "
            f"tailorbird {ours['probability']:.3f}"
        )
    for side, answer in found.get("homework", {}).items():
        plain = answer["plain"]
        parts.append(
            f"- Network from scratch, {side}: plain {plain['test']:.3f} on test "
            f"({plain['seconds']:.1f} s), augmented {answer['test']:.3f}"
        )
    lines = ["\n".join(parts)] if parts else []
    for side, answer in found.get("footwear", {}).items():
        rows = [
            f"| {side} | precision | recall | F1 | photos |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for row in answer["per_class"]:
            rows.append(
                f"| {row['label']} | {row['precision']:.3f} | {row['recall']:.3f} | "
                f"{row['f1']:.3f} | {row['support']} |"
            )
        lines.append("\n".join(rows))
    return lines


def commands(plan: dict[str, Any], found: dict[str, Found]) -> str:
    """Return every command that ran, with its seconds."""
    here = {
        plan["photos"]: "PHOTOS",
        plan["weights"]: "WEIGHTS.h5",
        plan["imagenet_classes"]: "CLASSES.csv",
    }
    lines = []
    for step in STEPS:
        ours = found.get(step, {}).get("tailorbird")
        if not ours:
            continue
        lines.append(f"# {STEPS[step].title}")
        for command, seconds in zip(ours["commands"], ours["command_seconds"], strict=True):
            for path, name in here.items():
                command = command.replace(path, name) if path else command
            lines.append(f"$ {command}   # {seconds:.1f} s")
    return "```\n" + "\n".join(lines) + "\n```"
