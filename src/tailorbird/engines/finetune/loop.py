"""Fine-tuning: fit, then stage, epoch and step, the same for every framework.

Shapes as in `network`; N training and M validation photos. A run lives in a folder and can be killed at any moment: the same
command goes on from the last checkpoint and comes to the same weights, unless a budget of seconds decides how far it goes.

Each stage starts from the best weights of the one before, not from its last: a stage that led nowhere then costs time and nothing
else, and lower layers never follow a head that has lost its way. What comes out is the best of all, whatever its stage and size;
the start is among them, so it is never worse on validation than the frozen base. Scored is the validation log-loss after fitting
one temperature, of the averaged weights.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailorbird.dataset import Sample
from tailorbird.engines.finetune import activation_cache, schedules
from tailorbird.engines.finetune.checkpoints import Checkpoints
from tailorbird.engines.finetune.interrupts import Interrupt, StopRequested, deferred_interrupt
from tailorbird.engines.finetune.results import Best, Epoch, Tuned, score
from tailorbird.engines.finetune.run import STATE, Labels, Run, Task
from tailorbird.engines.finetune.schedules import Plateau
from tailorbird.engines.finetune.settings import FinetuneSettings
from tailorbird.engines.finetune.views import Inputs, Rows
from tailorbird.engines.protocol import Arrays, TrainableNetwork
from tailorbird.errors import SettingsError, StorageError, TrainingError
from tailorbird.files import exclusive
from tailorbird.head import Head
from tailorbird.progress import NoProgress, Progress


def finetune(
    network: TrainableNetwork,
    parts: Mapping[str, Sequence[Sample]],
    labels: Mapping[str, Labels],
    head: Head,
    settings: FinetuneSettings,
    *,
    size: int,
    folder: Path,
    seed: int,
    features: NDArray[np.float32] | None,
    classes: int,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Fine-tune a network from the head found on its frozen features; at return it holds the best weights.

    Args:
        network: with its pretrained weights; nothing attached yet.
        parts: photos under `train` and `validation`; others are not touched.
        labels: int64 (N,) and (M,) under the same names, 0 to classes - 1.
        head: the starting point, on raw features of the base at `size`.
        settings: of the run.
        size: the backbone's own input size in pixels.
        folder: of the run. It is made; an unfinished run in it is taken up when it is the same, else replaced. `discard` deletes it.
        seed: at least 0; the same seed gives the same weights as far as the framework's arithmetic does.
        features: float32 (n, K) of training photos, all or some, unaugmented: batch normalisation in the head starts from
            them; None for a network with random weights.
        classes: C, at least 2.
        identity: what else makes a run another one, JSON-able: the backbone's SHA-256, the framework's name and version.
        progress: receives stages, steps, notes and metrics.

    Raises:
        SettingsError: arrays or settings that do not fit each other or the network.
        ImageError: a photo that changed or went since it was scanned.
        StorageError: the disk is full, or another process works in the folder; the last checkpoint stays.
        TrainingError: the loss became non-finite; the folder stays as it was at the last checkpoint.
        KeyboardInterrupt: after Ctrl-C, the state saved; a second Ctrl-C does not wait for that.
    """
    folder = Path(folder)
    task = Task(
        network,
        parts,
        labels,
        head,
        settings,
        size,
        folder,
        seed,
        features,
        classes,
        identity or {},
        progress or NoProgress(),
    )
    task.check()
    busy = f"another process is fine-tuning in {folder}; wait for it to end, or choose another place for the model"
    with exclusive(folder / "lock", busy), deferred_interrupt() as interrupt:
        run = _opened(task)
        try:
            _fit(run, interrupt)
        except StopRequested:
            if run.whole:
                run.save()
            said = (
                "its state is saved: the same command goes on from there"
                if run.kept
                else "before there was a state to save"
            )
            task.progress.note(f"fine-tuning was stopped, {said}")
            raise
        finally:
            run.close()
        network.load_weights(run.best.weights)
        activation_cache.clear(folder)
    return Tuned(
        history=tuple(run.history),
        stages=run.stages,
        best=run.best.best,
        start=run.start,
        resumed_from=run.resumed_from,
        seconds=run.position.seconds,
        stopped=run.position.stopped(),
    )


def discard(folder: Path) -> None:
    """Delete a run and its folder, when its model is written; other files there, and then the folder, stay. Raises StorageError."""
    if not folder.is_dir():
        return
    try:
        Checkpoints(folder).clear()
        (folder / "lock").unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{error.filename} could not be deleted: {error.strerror}; delete it by hand"
        ) from error
    with contextlib.suppress(OSError):
        folder.rmdir()


def _opened(task: Task) -> Run:
    """The run in the folder, or a new one; the network is attached either way."""
    stages = task.stages()
    run = Run(task, stages, task.fingerprint(stages))
    for number, stage in enumerate(stages, start=1):
        task.progress.note(f"stage {number}/{len(stages)}: {stage.sentence()}")
    saved = run.previous()
    if saved is None:
        task.network.attach(task.head, task.settings.regularisation, task.features)
        return run
    run.take_up(saved)
    position, best = run.position, run.best.best.score
    if not position.over:
        task.progress.note(
            f"goes on in stage {position.stage + 1}, epoch {position.epoch + 1}, after step {position.step}; "
            f"best so far: validation log-loss {best.log_loss:.3f}, accuracy {100 * best.accuracy:.1f}%"
        )
    return run


def _fit(run: Run, interrupt: Interrupt) -> None:
    """All stages, or those that are left."""
    if run.resumed_from is None:
        start = _score_start(run, interrupt)
        run.start = start.score
        run.spend()
        _enter(run, 0, interrupt, start)
    while not run.position.over:
        _train_stage(run, interrupt)
        following = run.position.stage + 1
        if following == len(run.stages) or not _time_left(run):
            run.position.over = True
            run.save()
        else:
            _enter(run, following, interrupt)
    interrupt.check()  # one that came after the last step must not be lost


def _time_left(run: Run) -> bool:
    budget = run.task.settings.budget
    if budget is None or run.position.seconds + run.position.validation_seconds < budget:
        return True
    run.position.ends.append("budget")
    return False


def _score_start(run: Run, interrupt: Interrupt) -> Best:
    """The frozen base with the head found on its features, at its own size: what fine-tuning has to beat."""
    task = run.task
    cuts = task.network.cuts(task.size)
    pooled = replace(
        run.stages[0],
        size=task.size,
        cut=len(cuts) - 1,
        cut_name=cuts[-1].name,
        keep=False,
        keep_validation=False,
    )
    inputs = Inputs(
        task.network, pooled, 0, task.parts,
        folder=task.folder, seed=task.seed, augmentation=None, batch_size=task.settings.batch_size,
    )  # fmt: skip
    width = task.head.layers[0].weight.shape[0]
    if math.prod(inputs.shape) != width:
        raise SettingsError(
            f"the head takes {width} features, but {task.network.name} gives {math.prod(inputs.shape)}"
        )

    def frozen(rows: Rows) -> NDArray[np.float32]:
        return task.head.logits(rows.reshape(len(rows), -1).astype(np.float32))

    logits = _answers(run, inputs, frozen, interrupt)
    if not np.isfinite(logits).all():
        raise TrainingError(
            f"{task.network.name} with the head found on its features gives answers that are not finite; its weights are damaged"
        )
    return Best(0, 0, task.size, score(logits, task.labels["validation"]), logits)


def _enter(run: Run, number: int, interrupt: Interrupt, start: Best | None = None) -> None:
    """The next stage, from the best weights of the one before; scored first where they were scored at another size."""
    remaining = run.stages[number:]
    budget = run.task.settings.budget
    if budget is not None:
        share = remaining[0].work / sum(stage.work for stage in remaining)
        budget = max(0.0, budget - run.position.seconds) * share
    run.enter(number, budget, start)
    if run.stage.keep_validation:  # so that scoring takes now what it will take after every epoch
        for _ in run.inputs.validation():
            interrupt.check()
    resized = run.leader.best.size != run.stage.size
    if resized or budget is not None:
        run.spend()
        logits = _answers(run, run.inputs, run.task.network.logits, interrupt)
        run.position.validation_seconds = run.spend()
        if resized:
            _record(run, logits, run.leader.weights, None)
    run.position.plateau = Plateau(best=run.leader.best.score.log_loss)
    run.spend()
    run.position.epoch_seconds = 0.0
    run.whole = True
    run.save()


def _train_stage(run: Run, interrupt: Interrupt) -> None:
    """The stage's epochs, or those that are left, until its time is over or it has stopped getting better."""
    stage, position, settings = run.stage, run.position, run.task.settings
    run.task.progress.stage("finetune", stage.epochs * run.inputs.steps * run.inputs.batch)
    while position.epoch < stage.epochs:
        if settings.patience is not None and position.stale >= settings.patience:
            run.task.progress.note(
                f"stage {position.stage + 1} ends early: {position.stale} epochs without a lower validation log-loss"
            )
            position.ends.append("early")
            return
        if (_out_of_time(run) and position.step == 0) or not _train_epoch(run, interrupt):
            position.ends.append("budget")
            return


def _out_of_time(run: Run) -> bool:
    """Whether the stage's time is over, less what scoring takes."""
    position = run.position
    return (
        position.stage_budget is not None
        and position.stage_seconds + position.validation_seconds >= position.stage_budget
    )


def _train_epoch(run: Run, interrupt: Interrupt) -> bool:
    """The rest of an epoch, and its score; whether it got to its end in time."""
    position, network = run.position, run.task.network
    with closing(run.inputs.training(position.epoch, position.step)) as batches:
        for inputs, numbers in batches:
            _train_step(run, inputs, numbers)
            run.spend()
            _tell(run)
            interrupt.check()
            run.save_when_due()
            if _out_of_time(run):
                break
    trained, complete = position.epoch_seconds, position.step == run.inputs.steps
    run.check_finite(network.state(), STATE)
    current, averaged = network.weights(), run.average.weights()
    network.load_weights(averaged or current)
    try:
        logits = _answers(run, run.inputs, network.logits, interrupt)
    finally:
        network.load_weights(current)
    position.validation_seconds = run.spend()
    _record(run, logits, averaged or current, trained)
    position.next_epoch()
    run.save()
    run.spend()
    position.epoch_seconds = 0.0  # saving is no part of the next epoch's speed
    return complete


def _train_step(run: Run, inputs: Rows, numbers: Labels) -> None:
    """One batch. Raises TrainingError when the loss is not finite."""
    position, task = run.position, run.task
    seen = task.network.step(inputs, task.labels["train"][numbers], _rate(run))
    position.step += 1
    if not math.isfinite(seen.loss):
        raise run.breakdown(f"the training loss became {seen.loss}")
    position.loss += seen.loss * len(numbers)
    position.correct += seen.correct
    position.seen += len(numbers)
    if task.settings.ema and (position.epoch * run.inputs.steps + position.step) % run.period == 0:
        weights = task.network.weights()
        run.check_finite(weights, "the weights")
        run.average.look(weights)


def _progress(run: Run) -> float:
    """How far the stage is, 0 to 1."""
    position, steps = run.position, run.inputs.steps
    done = position.epoch * steps + position.step
    return schedules.progress(
        done, run.stage.epochs * steps, position.stage_seconds, position.stage_budget
    )


def _rate(run: Run) -> float:
    """The head's learning rate in the next step."""
    settings = run.task.settings
    factor = schedules.factor(
        settings.schedule,
        _progress(run),
        warm_up=settings.warm_up,
        plateau=run.position.plateau.factor,
    )
    return run.stage.learning_rate * factor


def _tell(run: Run) -> None:
    """Report progress and metrics."""
    position, stage, inputs = run.position, run.stage, run.inputs
    epochs = position.epoch * inputs.steps + position.step
    run.task.progress.advance(epochs * inputs.batch, stage.epochs * inputs.steps * inputs.batch)
    done = _progress(run)
    a_unit = position.stage_seconds / max(1e-9, done * stage.work)
    left = a_unit * (
        (1 - done) * stage.work + sum(later.work for later in run.stages[position.stage + 1 :])
    )
    budget = run.task.settings.budget
    run.task.progress.metrics(
        loss=position.loss / position.seen,
        accuracy=position.correct / position.seen,
        images_per_second=position.seen / max(1e-9, position.epoch_seconds),
        seconds_left=left if budget is None else max(0.0, min(left, budget - position.seconds)),
    )


def _answers(
    run: Run, inputs: Inputs, logits: Callable[[Rows], NDArray[np.float32]], interrupt: Interrupt
) -> NDArray[np.float32]:
    """Logits of the validation photos, float32 (M, C)."""
    rows = []
    with closing(inputs.validation()) as batches:
        for batch in batches:
            rows.append(np.asarray(logits(batch), np.float32))
            interrupt.check()
    return np.concatenate(rows)[: run.task.photos["validation"]]


def _record(run: Run, logits: NDArray[np.float32], weights: Arrays, trained: float | None) -> None:
    """Score these weights' answers, note the epoch, keep the weights if they are the stage's best so far.

    trained: seconds of training in the epoch; None for the score before a stage. Raises TrainingError for logits that are not finite.
    """
    position, stage = run.position, run.stage
    if not np.isfinite(logits).all():
        raise run.breakdown("the answers to the validation photos became infinite or not a number")
    found = score(logits, run.task.labels["validation"])
    epoch = 0 if trained is None else position.epoch + 1
    better = found.log_loss < run.best.best.score.log_loss
    if trained is None or found.log_loss < run.leader.best.score.log_loss:
        run.leader = run.keep(Best(position.stage + 1, epoch, stage.size, found, logits), weights)
        position.stale = 0
    else:
        position.stale += 1
    if better:  # and so better than the stage's best as well
        run.best = run.leader
    entry = Epoch(
        stage=position.stage + 1,
        size=stage.size,
        cut=stage.cut_name,
        epoch=epoch,
        learning_rate=_rate(run),
        loss=position.loss / position.seen if position.seen else None,
        accuracy=position.correct / position.seen if position.seen else None,
        validation_log_loss=found.log_loss,
        validation_accuracy=found.accuracy,
        images_per_second=position.seen / max(1e-9, trained) if trained is not None else None,
        seconds=position.epoch_seconds,
        best=better,
    )
    run.history.append(entry)
    position.plateau = position.plateau.after(found.log_loss)
    run.task.progress.note(entry.sentence(len(run.stages), stage.epochs))
