"""The tailorbird side: which commands stand for each of the course's steps, how they are run, what
is read from their answers.

A command is text as the README shows it, with names in braces for what differs from run to run;
they run in one folder, so files they write are named without one.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Answer = dict[str, Any]

PULL = "tailorbird backbones pull keras:{network} {weights}"
TRAIN = "tailorbird train {photos}"
TUNE = " --engine keras --finetune --backbone {small_backbone} --size {small}"


def _cnn(name: str, epochs: str = "{homework_both}") -> str:
    """Return the command that trains a small network from scratch.

    By default as many epochs on augmented photos as on plain ones before, as in the course.
    """
    return (
        f"tailorbird train homework.csv -o {name}.onnx --engine keras --backbone cnn --size "
        f"{{small}} --epochs {epochs} "
        "--optimizer sgd --learning-rate 0.002 --schedule constant --batch-size 20"
    )


COMMANDS: dict[str, tuple[str, ...]] = {
    "imagenet": (
        PULL + " --with-classes {classes} -o imagenet.onnx",
        "tailorbird predict imagenet.onnx {photo} --top 5",
    ),
    "frozen": (
        PULL + " --size {small}",
        TRAIN
        + " -o frozen.onnx --backbone {small_backbone} --inner 0 --dropout 0 --learning-rate 0.01",
    ),
    "learning-rate": (
        "tailorbird find-lr {photos} --backbone {small_backbone}",
        "tailorbird sweep {photos} --backbone {small_backbone} --learning-rate "
        "0.0001,0.001,0.01,0.1 --inner 0 --dropout 0 --seeds 1",
    ),
    "checkpoint": (TRAIN + " -o best.onnx --backbone {small_backbone}",),
    "inner": (
        "tailorbird sweep {photos} --backbone {small_backbone} --learning-rate 0.001 --inner "
        "0,10,100,1000 --dropout 0 --seeds 1",
    ),
    "dropout": (
        "tailorbird sweep {photos} --backbone {small_backbone} --learning-rate 0.001 --inner 100 "
        "--dropout 0,0.2,0.5,0.8 --seeds 1",
    ),
    "augmentation": (TRAIN + " -o augmented.onnx --backbone {small_backbone} --views 4",),
    "larger": (PULL + " --size {large}", TRAIN + " -o larger.onnx --backbone {large_backbone}"),
    "use": (
        "tailorbird evaluate larger.onnx {photos} --split test",
        "tailorbird predict larger.onnx {photo}",
        "tailorbird import {notebook}/larger.keras --classes classes.txt --preprocess "
        "{preprocess} --validate {photos} -o imported.onnx",
        "tailorbird compare imported.onnx larger.onnx {photos} --split test",
    ),
    "fine-tune": (TRAIN + " -o fine-tuned.onnx" + TUNE + " --epochs {fine_tune}",),
    "hand-back": (
        "tailorbird export fine-tuned.onnx --to keras -o fine-tuned.keras",
        "tailorbird predict fine-tuned.onnx {photo}",
    ),
    "footwear": (
        "tailorbird train footwear.csv -o footwear.onnx"
        + TUNE
        + " --epochs {footwear} --l2 0.01 --batch-norm --dropout 0.2 "
        "--patience 3 --mixed-precision",
    ),
    "homework": (_cnn("plain", "{homework}") + " --no-augment", _cnn("homework")),
    "pitfall-validation": ("tailorbird evaluate best.onnx {photos} --split validation --all",) * 2,
    "pitfall-resume": (_cnn("killed"),) * 2,
    "pitfall-preprocess": (
        "tailorbird import {notebook}/larger.keras --classes classes.txt --preprocess {wrong} "
        "--validate {photos} -o wrong.onnx",
    ),
    "pitfall-batch-norm": (),
}

SHOWN = {
    "network": "MobileNetV2",
    "weights": "--weights mobilenetv2.weights.h5",
    "classes": "--classes imagenet_classes.csv",
    "photos": "clothing-dataset-small",
    "photo": "clothing-dataset-small/test/pants/photo.jpg",
    "small": "150",
    "large": "224",
    "small_backbone": "MobileNetV2-150",
    "large_backbone": "MobileNetV2",
    "notebook": "../notebook",
    "preprocess": "mobilenet_v2",
    "wrong": "torch",
    "fine_tune": "2",
    "footwear": "5",
    "homework": "3",
    "homework_both": "6",
}
"""The README's values for the names in braces."""


class CommandFailed(Exception):
    """A command of the tailorbird side failed."""


@dataclass(frozen=True)
class Done:
    """One command that ran: its answer (`--json`), what it said to people, and how long it took,
    start of the process included.
    """

    command: str
    seconds: float
    answer: Answer
    said: str


@dataclass(frozen=True)
class Place:
    """Where commands run: a folder with a cache of its own, and what stands for the names in
    braces.

    inside: in this process, which saves the shortened form a dozen imports of Keras; else each in a
    process of its own.
    """

    folder: Path
    names: dict[str, str]
    inside: bool = False

    def run(self, command: str, *, kill_after: float | None = None) -> Done:
        """Run a command.

        With `kill_after` it is killed after so many seconds, as a power cut would. Raises
        CommandFailed.
        """
        arguments = [part.format(**self.names) for part in shlex.split(command)]
        # Options that are not there this time, and those of two words, stand in one name.
        words = [
            word
            for part in arguments
            for word in (shlex.split(part) if part.startswith("--") else [part])
            if word
        ]
        shown = shlex.join(words)
        note = "" if kill_after is None else f"   # killed after {kill_after:.0f} s"
        print(f"  $ {shown}{note}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        if self.inside and kill_after is None:
            code, out, said = self._here(words)
        else:
            code, out, said = self._process(words, kill_after)
        seconds = time.perf_counter() - start
        with (self.folder / "said.txt").open("a", encoding="utf-8") as log:
            log.write(f"$ {shown}\n{said}\n")
        if code == -signal.SIGKILL and kill_after is not None:
            return Done(shown, seconds, {}, "killed")
        if code not in (0, 3):
            lines = [line for line in said.splitlines() if any(sign.isalnum() for sign in line)]
            raise CommandFailed(
                f"{shown} exited {code}: {lines[-1] if lines else 'nothing was said'}"
            )
        found = [line for line in out.splitlines() if line.startswith("{")]
        return Done(shown, seconds, json.loads(found[-1]) if found else {}, said)

    def _process(self, words: list[str], kill_after: float | None) -> tuple[int, str, str]:
        environment = {**os.environ, "TAILORBIRD_CACHE": str(self.folder / "cache")}
        process = subprocess.Popen(
            [sys.executable, "-m", *words, "--json"],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            out, said = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            out, said = process.communicate()
        except BaseException:
            process.kill()
            raise
        return process.returncode, out, said

    def _here(self, words: list[str]) -> tuple[int, str, str]:
        from tailorbird import cli

        out, said = io.StringIO(), io.StringIO()
        os.environ["TAILORBIRD_CACHE"] = str(self.folder / "cache")
        before = sys.argv
        sys.argv = [*words, "--json"]
        try:
            with (
                contextlib.chdir(self.folder),
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(said),
            ):
                cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        finally:
            sys.argv = before
        return code, out.getvalue(), said.getvalue()


def shown(step: str) -> list[str]:
    """Return a step's commands as in the README."""
    return [" ".join(command.format(**SHOWN).split()) for command in COMMANDS[step]]


def scores(answer: Answer) -> Answer:
    """Return validation and test accuracy from the JSON of `train` or `import`."""
    found = answer.get("scores") or {}
    return {part: found[part]["accuracy"] for part in ("validation", "test") if found.get(part)}


def _scored(done: list[Done]) -> Answer:
    return scores(done[-1].answer)


def _pulled(done: list[Done]) -> Answer:
    return {**scores(done[-1].answer), "backbone": done[0].answer["path"]}


def _swept(done: list[Done]) -> Answer:
    answer = done[-1].answer
    tried = {entry["name"]: entry["accuracy"] for entry in answer["settings"]}
    best = max(tried, key=lambda name: tried[name])
    found: Answer = {
        "tried": tried,
        "validation": tried[best],
        "best": best,
        "fits": answer["fits"],
    }
    if len(done) == 2:
        found["suggestion"] = done[0].answer["suggestion"]
    return found


def _named(done: list[Done]) -> Answer:
    return {"top": [[entry["label"], entry["probability"]] for entry in done[-1].answer["top"]]}


def _used(done: list[Done]) -> Answer:
    evaluated, predicted, imported, compared = (entry.answer for entry in done)
    return {
        "test": evaluated["accuracy"],
        "label": predicted["label"],
        "imported": scores(imported) or {"test": compared["a"]["accuracy"]},
        "agreement": imported["agreement"],
        "imported_test": compared["a"]["accuracy"],
        "verdict": compared["verdict"],
    }


def _handed_back(done: list[Done]) -> Answer:
    exported, predicted = (entry.answer for entry in done)
    return {
        "difference": exported["difference"],
        "label": predicted["label"],
        "probability": predicted["probability"],
    }


def _three(done: list[Done]) -> Answer:
    return {**scores(done[-1].answer), "per_class": done[-1].answer["scores"]["test"]["per_class"]}


def _two(done: list[Done]) -> Answer:
    return {
        **scores(done[-1].answer),
        "plain": {"seconds": done[0].seconds, **scores(done[0].answer)},
    }


def _twice(done: list[Done]) -> Answer:
    return {"validation": [entry.answer["accuracy"] for entry in done]}


def _resumed(done: list[Done]) -> Answer:
    killed, resumed = done
    again = resumed.answer["finetune"]["resumed_from"]
    return {
        "killed_after": killed.seconds,
        "resumed": scores(resumed.answer),
        "resumed_from": again,
    }


def _imported(done: list[Done]) -> Answer:
    answer = done[0].answer
    # What the base's name tells, and what the photos tell, come first.
    return {"wrong": scores(answer), "warning": " ".join(answer["warnings"][:2])}


READ: dict[str, Callable[[list[Done]], Answer]] = {
    "imagenet": _named,
    "frozen": _pulled,
    "learning-rate": _swept,
    "checkpoint": _scored,
    "inner": _swept,
    "dropout": _swept,
    "augmentation": _scored,
    "larger": _pulled,
    "use": _used,
    "fine-tune": _scored,
    "hand-back": _handed_back,
    "footwear": _three,
    "homework": _two,
    "pitfall-validation": _twice,
    "pitfall-resume": _resumed,
    "pitfall-preprocess": _imported,
    "pitfall-batch-norm": lambda done: {},
}


def run_step(step: str, place: Place, *, homework_seconds: float = 0.0) -> Answer:
    """Run a step's commands and return their results. Raises CommandFailed.

    homework_seconds: what the homework's augmented network took, for the run that is killed in the
        middle.
    """
    done: list[Done] = []
    for number, command in enumerate(COMMANDS[step]):
        kill = 0.6 * homework_seconds if step == "pitfall-resume" and number == 0 else None
        if step in ("frozen", "larger") and number == 1:
            name = "small_backbone" if step == "frozen" else "large_backbone"
            place.names[name] = Path(done[0].answer["path"]).name.removesuffix(".backbone.onnx")
        done.append(place.run(command, kill_after=kill))
    return {
        "seconds": sum(entry.seconds for entry in done),
        "commands": [entry.command for entry in done],
        "command_seconds": [round(entry.seconds, 2) for entry in done],
        **READ[step](done),
    }
